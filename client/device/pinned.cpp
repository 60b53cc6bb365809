#include "pinned.hpp"

#include <new>
#include <utility>

namespace muster::detail {

bool PinLimit::take(std::uint64_t bytes) {
  auto left = left_.load();
  while (left >= bytes)
    if (left_.compare_exchange_weak(left, left - bytes)) return true;
  return false;
}

Result<bool> Pin::begin(ipc::Access access) {
  auto registered = cuda_.register_host(address_, bytes_, access);
  if (!registered) return registered.error();
  context_ = std::move(*registered);
  return context_ != nullptr;
}

Pin::~Pin() {
  if (context_) cuda_.unregister_host(address_, *context_);
  limit_.give_back(bytes_);
}

void EndPin::operator()(Pin* pin) const {
  if (Cuda::if_open()) delete pin;
}

namespace {

Result<PinPtr> pin(Cuda& cuda, std::byte* address, std::uint64_t bytes, ipc::Access access, PinLimit& limit) {
  if (!limit.take(bytes)) return PinPtr();
  PinPtr made(new Pin(cuda, limit, address, bytes));
  auto begun = made->begin(access);
  if (!begun) return begun.error();
  return *begun ? std::move(made) : PinPtr();
}

}  // namespace

Result<PinPtr> pin_for_writing(std::byte* address, std::uint64_t bytes, PinLimit& limit) {
  auto cuda = Cuda::get();
  if (!cuda) return cuda.error();
  return pin(**cuda, address, bytes, ipc::Access::read_write, limit);
}

PinPtr pin_for_reading(std::byte* address, std::uint64_t bytes, PinLimit& limit) try {
  Cuda* const cuda = Cuda::if_open();
  if (!cuda) return nullptr;
  auto pinned = pin(*cuda, address, bytes, ipc::Access::read_only, limit);
  return pinned ? std::move(*pinned) : nullptr;
} catch (const std::bad_alloc&) {
  return nullptr;  // the memory can be read all the same
}

}  // namespace muster::detail
