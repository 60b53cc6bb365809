#include "process_end.hpp"

#include <atomic>

namespace muster::detail {

namespace {

std::atomic<bool> is_ending{false};

}  // namespace

void process_ends() { is_ending = true; }
bool process_is_ending() { return is_ending; }

}  // namespace muster::detail
