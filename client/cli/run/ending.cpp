#include "ending.hpp"

#include <cstring>

#include <fmt/format.h>

namespace muster::cli {

namespace {

std::string signal_name(int signal) {
  const char* abbreviation = ::sigabbrev_np(signal);
  return abbreviation != nullptr ? fmt::format("SIG{}", abbreviation) : fmt::format("signal {}", signal);
}

/// The signal's description in brackets; real-time signals have none.
std::string described(int signal) {
  const char* description = ::sigdescr_np(signal);
  return description != nullptr ? fmt::format(" ({})", description) : "";
}

}  // namespace

std::string how(const Ending& ending) {
  if (ending.signal == 0) return fmt::format("exited with code {}", ending.exit_code);
  return fmt::format("was ended by {}{}", signal_name(ending.signal), described(ending.signal));
}

}  // namespace muster::cli
