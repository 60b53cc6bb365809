// Copies an object to another device.
#include <muster/client.hpp>

#include <cstring>
#include <utility>
#include <vector>

#include "base/bounded_time.hpp"
#include "base/call_deadline.hpp"
#include "core/connection.hpp"
#include "device/cuda.hpp"
#include "holds.hpp"
#include "lease.hpp"
#include "objects.hpp"

namespace muster {

namespace {

/// Both are whole: nothing is to be waited for.
Result<void> copy(const RawBuffer& to, const ArrayView& from) {
  if (from.bytes() == 0) return {};
  if (to.device().is_host() && from.device().is_host()) {
    std::memcpy(to.data(), from.data(), from.bytes());
    return {};
  }
  auto cuda = detail::Cuda::get();
  if (!cuda) return cuda.error();
  return (*cuda)->copy(to.data(), from.data(), from.bytes());
}

}  // namespace

Result<Ref> Ref::to(Device device, Timeout timeout) const {
  if (auto checked = detail::check_timeout(timeout); !checked) return checked.error();
  const detail::CallDeadline deadline(timeout.value_or(detail::default_wait));
  auto opened = detail::open(hold_);
  if (!opened) return opened.error();
  const auto& hold = *opened->hold();
  bool is_there = true;
  for (const auto& leaf : hold.manifest.leaves) is_there &= leaf.device == device;
  if (is_there) return *this;
  Client client(hold.connection);
  std::vector<RawBuffer> buffers;
  std::vector<const std::byte*> addresses;
  ipc::Manifest manifest;
  for (const auto& view : opened->views) {
    auto buffer = client.allocate_raw(view.dtype(), view.shape(), device, timeout);
    if (!buffer) return buffer.error();
    const auto& region = buffer->lease()->region;
    if (auto added = detail::add_leaf(manifest, region, view.dtype(), view.shape()); !added) return added.error();
    if (auto copied = copy(*buffer, view); !copied) return copied.error();
    buffer->lease()->finished = true;
    addresses.push_back(region.address);
    buffers.push_back(std::move(*buffer));
  }
  manifest.makers = hold.manifest.makers;
  manifest.structure = hold.manifest.structure;
  manifest.guise = hold.manifest.guise;
  const std::uint64_t bytes = manifest.bytes();
  return detail::seal(hold.connection, std::move(manifest), addresses, bytes);
}

}  // namespace muster
