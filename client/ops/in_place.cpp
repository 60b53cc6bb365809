#include "in_place.hpp"

#include <algorithm>
#include <utility>

#include <muster/ipc/records.hpp>

#include "core/connection.hpp"

namespace muster::detail {

InPlace::~InPlace() {
  for (const auto& left : left_) {
    std::vector<std::byte> body;
    ipc::write(ipc::HandOver{left.segment}, body);
    connection_->submit_soon(ipc::SubmissionType::hand_over, std::move(body));
  }
}

Result<std::optional<InPlace::Place>> InPlace::leave(const void* data, Device device, LeftInPlace::Owner owner,
                                                     std::chrono::nanoseconds timeout) {
  const auto* const address = static_cast<const std::byte*>(data);
  const auto place_in = [&](const Left& left) {
    return Place{left.segment, static_cast<std::uint64_t>(address - left.base)};
  };
  const auto has_it = [&](const Left& left) { return address >= left.base && address < left.base + left.bytes; };
  if (const auto known = std::ranges::find_if(left_, has_it); known != left_.end()) {
    connection_->left_in_place().add_owner(known->segment, std::move(owner));
    return std::optional(place_in(*known));
  }
  auto cuda = Cuda::get();
  if (!cuda) return cuda.error();
  auto shared = (*cuda)->share(data);
  if (!shared) return shared.error();
  if (!*shared) return std::optional<Place>();
  left_.reserve(left_.size() + 1);
  Left left{(*shared)->base(), (*shared)->memory().bytes, {}};
  auto segment = connection_->leave_in_place(std::move(*shared), device, std::move(owner), timeout);
  if (!segment) return segment.error();
  left.segment = *segment;
  left_.push_back(left);
  return std::optional(place_in(left));
}

}  // namespace muster::detail
