// Python values into the store and out of it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "call.hpp"
#include "module.hpp"
#include "ops/holds.hpp"

namespace muster::python {

/// Why a leaf of a decorated call's result was copied.
enum class CopyReason : std::uint8_t {
  library,    ///< another library's array, or a subclass
  order,      ///< another byte order, or elements that don't lie in C order
  kept,       ///< something outside of the value has it, too
  stored,     ///< a view of an object in the store: somebody's result
  elsewhere,  ///< its memory was not allocated by NumPy in the call
  too_large,  ///< the call's arrays took more than their share of the store
  full,       ///< the store was full when it was made
  small_part  ///< it would keep a much larger array
};
struct Copied {
  std::size_t leaf = 0;
  CopyReason reason = CopyReason::elsewhere;
  nb::object array;  ///< a weak reference, of one that is kept
};

/// muster.Ref's state.
struct PyRef {
  Ref ref;
  int copies = 0;
  std::shared_ptr<const std::vector<Copied>> copied;  ///< null: none, or it was not made in a decorated call
};

/// `root` becomes an object. Arrays of `call`, if there is one, may be taken over without a copy, if the tree is their
/// sole owner and `root_references` (not 0) are the caller's own.
[[nodiscard]] PyRef deposit(const ConnectionPtr& connection, nb::handle root, const Call* call,
                            Py_ssize_t root_references, Timeout timeout);
/// Around a wait of a seal. Most seals need not wait, and to give the GIL up and to get it back may take long where
/// many want it.
Result<void> wait_unlocked(const std::function<Result<void>()>& wait);
/// An object whose arrays are mapped.
using detail::Opened;
/// Needs no GIL, and may have to ask the daemon: for so long, or 30 s.
[[nodiscard]] Result<Opened> open(const Ref& ref, Timeout timeout = {});
[[nodiscard]] Opened open_or_raise(const Ref& ref);
/// Of the capsule that NumPy leaves have as their base.
inline constexpr const char* opening_name = "muster.opening";
/// The value of an object: NumPy leaves as read-only views, torch's and JAX's over copy-on-write memory.
[[nodiscard]] nb::object value_of(const Opened& opened);
/// One leaf as a writable array whose writes stay in this process.
[[nodiscard]] nb::object private_array(const Ref& ref, std::size_t leaf);

}  // namespace muster::python
