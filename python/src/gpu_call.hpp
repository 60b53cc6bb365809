// A decorated call whose arrays are to be on a GPU: while it runs, PyTorch and CuPy allocate there inside the store.
// muster/_gpu_allocators.py has the libraries' part.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "call_share.hpp"
#include "memory/arena.hpp"
#include "module.hpp"

namespace muster::python {

class GpuCall {
 public:
  /// `ordinal` is the number by which CUDA knows the GPU of `arena` in this process.
  GpuCall(ConnectionPtr connection, detail::Arena& arena, std::uint64_t memory_bytes, int ordinal);
  ~GpuCall();
  GpuCall(const GpuCall&) = delete;
  GpuCall& operator=(const GpuCall&) = delete;

  /// From here on, PyTorch's allocations of this thread on the GPU are the call's. False if they are another call's
  /// already: PyTorch would give us no sign of which pool asks.
  [[nodiscard]] bool enter();
  /// On the same thread.
  void leave();
  [[nodiscard]] int ordinal() const;

  /// The region of this call that has the address.
  [[nodiscard]] std::optional<detail::ArenaRegion> find(const void* data) const;
  /// Why memory of the call is not in the store.
  [[nodiscard]] NotStored why_not_stored(const void* data) const;
  /// An owner of new memory for CuPy. None if the store can't give it.
  [[nodiscard]] nb::object allocate(std::uint64_t bytes);
  /// The call got this memory from elsewhere, as allocate() returned None.
  void refused(std::uintptr_t address, std::uint64_t bytes);

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace muster::python
