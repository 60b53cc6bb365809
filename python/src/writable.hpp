// The memory of muster.empty on the host: memory of the store under a NumPy array, until it is sealed.
#pragma once

#include "memory/arena.hpp"
#include "module.hpp"

namespace muster::python {

/// An array's base. Whoever uses the memory holds a reference on the array or on this.
struct Writable {
  Writable(ConnectionPtr connection_, detail::Arena& arena_, std::byte* address_, std::uint64_t bytes_)
      : connection(std::move(connection_)), arena(arena_), address(address_), bytes(bytes_) {}
  Writable(const Writable&) = delete;
  Writable& operator=(const Writable&) = delete;
  ~Writable();
  [[nodiscard]] Device device() const { return arena.device(); }

  ConnectionPtr connection;
  detail::Arena& arena;  ///< of the connection
  std::byte* address;
  std::uint64_t bytes;
  bool sealed = false;
};

/// The memory of muster.empty in which the array lies; null for any other array.
[[nodiscard]] Writable* writable_under(PyObject* array);
/// Returns once no GPU of this process writes to the memory any more.
void finish_writes(const Writable& memory);

}  // namespace muster::python
