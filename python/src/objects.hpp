// Python values into the store and out of it.
#pragma once

#include <memory>
#include <vector>

#include "module.hpp"
#include "opening.hpp"

namespace muster::python {

/// muster.Ref's state.
struct PyRef {
  Ref ref;
  int copies = 0;
};

/// `root` becomes an object. `call` not 0: arrays of that decorated call may be taken over without a copy, if the tree
/// is their sole owner.
[[nodiscard]] PyRef deposit(const ConnectionPtr& connection, nb::handle root, std::uint64_t call,
                            Py_ssize_t root_references, Timeout timeout);
/// An object whose arrays are mapped.
using detail::Opened;
/// Needs no GIL, and may have to ask the daemon: for so long, or 30 s.
[[nodiscard]] Result<Opened> open(const Ref& ref, Timeout timeout = {});
/// The value of an object: NumPy leaves as read-only views, torch's and JAX's over copy-on-write memory.
[[nodiscard]] nb::object value_of(const Opened& opened);
/// One leaf as a writable array whose writes stay in this process.
[[nodiscard]] nb::object private_array(const Ref& ref, std::size_t leaf);

}  // namespace muster::python
