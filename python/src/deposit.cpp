// Puts Python values into the store. It takes over what a call made, and copies everything else once.
#include <nanobind/stl/shared_ptr.h>

#include <cstring>
#include <functional>
#include <optional>
#include <unordered_map>

#include "arrays.hpp"
#include "base/call_deadline.hpp"
#include "bindings.hpp"
#include "gil.hpp"
#include "objects.hpp"
#include "ops/objects.hpp"
#include "owners.hpp"
#include "tree.hpp"

namespace muster::python {

namespace {

/// A copy of this size takes longer than letting go of the GIL and taking it again.
constexpr std::size_t long_copy_bytes = 1 << 20;

bool is_native(PyArrayObject* array) { return PyArray_ISNBO(PyArray_DESCR(array)->byteorder); }

/// Copies an array of any strides and byte order into dense memory in the machine's byte order.
void copy_dense(PyArrayObject* from, void* to) {
  if (PyArray_IS_C_CONTIGUOUS(from) && is_native(from)) {
    const auto bytes = static_cast<std::size_t>(PyArray_NBYTES(from));
    const auto copy = [&, data = PyArray_DATA(from)] { return std::memcpy(to, data, bytes); };
    bytes < long_copy_bytes ? copy() : unlocked(copy);
    return;
  }
  PyArray_Descr* descr = PyArray_DescrNewByteorder(PyArray_DESCR(from), NPY_NATIVE);
  if (!descr) throw nb::python_error();
  nb::object dense = nb::steal(PyArray_NewFromDescr(&PyArray_Type, descr, PyArray_NDIM(from), PyArray_DIMS(from),
                                                    nullptr, to, NPY_ARRAY_WRITEABLE, nullptr));
  if (!dense.is_valid() || PyArray_CopyInto(as_array(dense), from) != 0) throw nb::python_error();
}

class Depositor {
 public:
  Depositor(const ConnectionPtr& connection, Timeout timeout)
      : connection_(connection), timeout_(timeout.value_or(detail::default_wait)) {}

  /// `sole` says of each leaf whether it has no owner outside the tree and was made in `call`.
  void add(std::span<const FoundLeaf> leaves, const std::vector<bool>& sole, const Call* call) {
    std::vector<std::optional<Region>> regions;
    regions.reserve(leaves.size());
    for (std::size_t i = 0; i < leaves.size(); ++i)
      regions.push_back(sole[i] ? region_of(as_array(leaves[i].array), call->id()) : std::nullopt);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      // A scalar has no memory that could have been shared, so copying it does not count.
      if (add(leaves[i], regions[i]) || leaves[i].is_scalar) continue;
      ++copies_;
      if (call) note(i, leaves[i], reason_for(leaves[i], sole[i], regions[i].has_value(), *call));
    }
  }

  PyRef seal(ipc::Description description) {
    manifest_.structure = std::move(description.structure);
    manifest_.guise = std::move(description.guise);
    std::vector<const std::byte*> addresses(taken_.begin(), taken_.end());
    addresses.insert(addresses.end(), made_.begin(), made_.end());
    const detail::CallDeadline deadline(timeout_);
    auto ref = detail::seal(connection_, std::move(manifest_), addresses, copied_bytes_, &wait_unlocked);
    forget_made();
    PyRef made{value_or_raise(std::move(ref)), copies_, {}};
    if (!copied_.empty()) made.copied = std::make_shared<const std::vector<Copied>>(std::move(copied_));
    return made;
  }

  ~Depositor() { forget_made(); }

 private:
  using Region = detail::ArenaRegion;

  /// Returns the region of this call that the array lies in, if it can be taken over as it is.
  std::optional<Region> region_of(PyArrayObject* array, std::uint64_t call) {
    const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(array));
    if (bytes == 0 || !PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) return std::nullopt;
    const auto* data = static_cast<const std::byte*>(PyArray_DATA(array));
    auto region = connection_->arena().find(data);
    if (!region || region->call != call || data + bytes > region->address + region->bytes) return std::nullopt;
    used_bytes_[region->address] += bytes;
    return region;
  }

  /// Otherwise a small part would keep all of a large region.
  bool is_most_of(const Region& region) const {
    constexpr std::uint64_t waste_max = 64 << 10;
    return region.bytes <= 2 * used_bytes_.at(region.address) + waste_max;
  }

  /// What its memory belongs to; null: NumPy allocated it.
  static PyObject* owner_of(PyArrayObject* array) {
    PyObject* base = PyArray_BASE(array);
    while (base && PyArray_Check(base)) base = PyArray_BASE(reinterpret_cast<PyArrayObject*>(base));
    return base;
  }

  static CopyReason reason_for(const FoundLeaf& leaf, bool sole, bool in_store, const Call& call) {
    auto* array = as_array(leaf.array);
    if (PyObject* owner = owner_of(array); owner && PyCapsule_IsValid(owner, opening_name)) return CopyReason::stored;
    if (!is_native(array)) return CopyReason::order;
    if (!leaf.as_given) return CopyReason::library;
    if (!sole) return owner_of(array) ? CopyReason::elsewhere : CopyReason::kept;
    if (in_store) return CopyReason::small_part;
    if (!PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) return CopyReason::order;
    switch (call.why_not_stored(PyArray_DATA(array))) {
      case Call::NotStored::too_large: return CopyReason::too_large;
      case Call::NotStored::full: return CopyReason::full;
      case Call::NotStored::elsewhere: break;
    }
    return CopyReason::elsewhere;
  }

  void note(std::size_t index, const FoundLeaf& leaf, CopyReason reason) {
    nb::object kept;
    if (reason == CopyReason::kept) {
      kept = nb::steal(PyWeakref_NewRef(leaf.array.ptr(), nullptr));
      PyErr_Clear();  // without a weak reference, nobody learns who keeps the array
    }
    copied_.push_back({index, reason, std::move(kept)});
  }

  /// Returns false if the array was copied.
  bool add(const FoundLeaf& leaf, const std::optional<Region>& region) {
    auto* array = as_array(leaf.array);
    const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(array));
    const auto shape = shape_of(array);
    if (bytes == 0) return place({}, 0, leaf, shape), true;
    if (!region || !is_most_of(*region)) return copy(leaf, array, bytes, shape), false;
    const auto* data = static_cast<const std::byte*>(PyArray_DATA(array));
    taken_.push_back(region->address);
    place(region->segment, region->offset + static_cast<std::uint64_t>(data - region->address), leaf, shape);
    return true;
  }

  void place(ipc::SegmentId segment, std::uint64_t offset, const FoundLeaf& leaf, const Shape& shape) {
    value_or_raise(manifest_.add(segment, offset, leaf.dtype, shape));
  }

  void copy(const FoundLeaf& leaf, PyArrayObject* array, std::uint64_t bytes, const Shape& shape) {
    auto region = connection_->arena().allocate_here(bytes, 0);
    if (!region)
      region = connection_->arena().find(call_unlocked([&] {
        const detail::CallDeadline deadline(timeout_);
        return connection_->arena().allocate(bytes, 0, timeout_);
      }));
    made_.push_back(region->address);
    copy_dense(array, region->address);
    copied_bytes_ += bytes;
    place(region->segment, region->offset, leaf, shape);
  }

  /// From here on only the object keeps the regions. If there is none, this frees them.
  void forget_made() {
    for (auto* address : made_) connection_->arena().free(address);
    made_.clear();
  }

  const ConnectionPtr& connection_;
  std::chrono::nanoseconds timeout_;
  ipc::Manifest manifest_;
  std::unordered_map<const std::byte*, std::uint64_t>
      used_bytes_;  ///< for each region: bytes that the object's leaves use
  std::vector<std::byte*> taken_;
  std::vector<std::byte*> made_;
  int copies_ = 0;
  std::vector<Copied> copied_;
  std::uint64_t copied_bytes_ = 0;
};

/// Whether this interpreter's reference counts allow zero copies, for results of plain calls and of awaited calls.
bool counts_are_known[2] = {false, false};

}  // namespace

Result<void> wait_unlocked(const std::function<Result<void>()>& wait) { return unlocked(wait); }

PyRef deposit(const ConnectionPtr& connection, nb::handle root, const Call* call, Py_ssize_t root_references,
              Timeout timeout) {
  Tree tree = take_apart(root);
  std::vector<bool> sole(tree.leaves.size(), false);
  if (call && root_references > 0) sole = sole_owners(tree, root, root_references);
  Depositor depositor(connection, timeout);
  depositor.add(tree.leaves, sole, call);
  return depositor.seal(std::move(tree.description));
}

namespace {

/// Deposits the result of a decorated call. In a child that was forked during the call, copies everything over the
/// child's own connection.
PyRef deposit_result(const Call& call, nb::handle result, bool counts_known, Timeout timeout) {
  if (!call.connection()->inherited()) return deposit(call.connection(), result, &call, counts_known ? 1 : 0, timeout);
  const auto own = nb::cast<ConnectionPtr>(nb::module_::import_("muster._runtime").attr("connection")());
  return deposit(own, result, nullptr, 0, timeout);
}

PyRef run(const ConnectionPtr& connection, nb::handle function, nb::handle args, nb::handle kwargs,
          nb::handle timeout) {
  const Timeout deadline = deadline_from(timeout);
  Call call(connection);
  call.enter();
  nb::object result = nb::steal(PyObject_Call(function.ptr(), args.ptr(), kwargs.ptr()));
  call.leave();
  if (!result.is_valid()) throw nb::python_error();
  return deposit_result(call, result, counts_are_known[0], deadline);
}

}  // namespace

void bind_deposits(nb::module_& module) {
  nb::class_<Call>(module, "Call")
      .def(nb::init<const ConnectionPtr&>())
      .def("enter", &Call::enter)
      .def("leave", &Call::leave)
      .def(
          "finish",
          [](Call& self, nb::handle result, nb::handle timeout) {
            self.leave();
            return deposit_result(self, result, counts_are_known[1], deadline_from(timeout));
          },
          nb::arg("result").none(), nb::arg("timeout").none());
  module.def("run", &run, nb::arg("connection"), nb::arg("function"), nb::arg("args"), nb::arg("kwargs"),
             nb::arg("timeout").none());
  module.def(
      "put",
      [](const ConnectionPtr& connection, nb::handle value, nb::handle timeout) {
        return deposit(connection, value, nullptr, 0, deadline_from(timeout));
      },
      nb::arg("connection"), nb::arg("value").none(), nb::arg("timeout").none());
  module.def("trust_counts", [](bool of_calls, bool of_awaits) {
    counts_are_known[0] = of_calls;
    counts_are_known[1] = of_awaits;
  });
}

}  // namespace muster::python
