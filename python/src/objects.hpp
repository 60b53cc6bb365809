// Puts Python values into the store, and gets them out.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "call.hpp"
#include "gpu_call.hpp"
#include "module.hpp"
#include "ops/holds.hpp"

namespace muster::python {

/// Why a leaf of a decorated call's result was copied.
enum class CopyReason : std::uint8_t {
  library,     ///< it is another library's array, or a subclass
  order,       ///< it has another byte order, or its elements are not in C order
  kept,        ///< something outside the value has it, too
  stored,      ///< it is a view of an object in the store: somebody's result
  elsewhere,   ///< its memory was not allocated by NumPy in the call
  too_large,   ///< the call's arrays took more than their share of the store
  share,       ///< libraries in this process have their share of a GPU's store already
  full,        ///< the store was full when it was made
  small_part,  ///< it would keep a much larger array
  device,      ///< it was on another device than it was to be
  host,        ///< it was to be left in place, and is on the host
  no_handle,   ///< it was to be left in place, and the driver has no handle for its memory
};
struct Copied {
  std::size_t leaf = 0;
  CopyReason reason = CopyReason::elsewhere;
  nb::object array;  ///< a weak reference, for a kept array
};

/// muster.Ref's state.
struct PyRef {
  Ref ref;
  int copies = 0;
  std::shared_ptr<const std::vector<Copied>>
      copied;  ///< null if nothing was copied, or if it was not made in a decorated call
};

/// Makes `root` an object. Arrays of `call`, if there is one, may be taken over without a copy if the tree is their
/// sole owner. `root_references` is how many references on the root the caller itself has; 0: everything is copied.
/// `device`: where all arrays are to be; nothing: where they are. `in_place`: arrays of other libraries on GPUs are
/// left where they are if that can be. `gpu_call` is the call in which other libraries allocated there, if there is
/// one.
[[nodiscard]] PyRef deposit(const ConnectionPtr& connection, nb::handle root, const Call* call,
                            Py_ssize_t root_references, Timeout timeout, std::optional<Device> device,
                            const GpuCall* gpu_call = nullptr, bool in_place = false);
/// Wraps the wait of a seal. Most seals need not wait, and where many threads want the GIL, letting go of it and taking
/// it again may take long.
Result<void> wait_unlocked(const std::function<Result<void>()>& wait);
/// An object whose arrays are mapped.
using detail::Opened;
/// Needs no GIL. May have to ask the daemon, for up to `timeout` or 30 s.
[[nodiscard]] Result<Opened> open(const Ref& ref, Timeout timeout = {});
[[nodiscard]] Opened open_or_raise(const Ref& ref);
/// The name of the capsule that NumPy leaves have as their base.
inline constexpr const char* opening_name = "muster.opening";
/// The value of an object: NumPy leaves are read-only views, torch's and JAX's leaves are over copy-on-write memory.
[[nodiscard]] nb::object value_of(const Opened& opened);
/// One leaf as a writable array whose writes stay in this process.
[[nodiscard]] nb::object private_array(const Ref& ref, std::size_t leaf);

}  // namespace muster::python
