// Puts Python values into the store. It takes over what a call made, and copies everything else once.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <unordered_map>

#include "arrays.hpp"
#include "base/call_deadline.hpp"
#include "bindings.hpp"
#include "core/requests.hpp"
#include "device_array.hpp"
#include "gil.hpp"
#include "later.hpp"
#include "objects.hpp"
#include "ops/in_place.hpp"
#include "ops/objects.hpp"
#include "owners.hpp"
#include "tree.hpp"
#include "writable.hpp"

namespace muster::python {

namespace {

/// A copy of this size takes longer than letting go of the GIL and taking it again.
constexpr std::size_t long_copy_bytes = 1 << 20;

nb::object allocators(const char* name) { return nb::module_::import_("muster._gpu_allocators").attr(name); }

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
  /// `device`: where all arrays are to be; nothing: where they are.
  Depositor(const ConnectionPtr& connection, Timeout timeout, std::optional<Device> device, const GpuCall* gpu_call,
            bool in_place)
      : connection_(connection),
        timeout_(timeout.value_or(detail::default_wait)),
        device_(device),
        gpu_call_(gpu_call) {
    if (in_place) in_place_.emplace(connection);
  }

  /// `sole` says of each leaf whether it has no owner outside the tree and was made in the call. `call` allocated
  /// arrays of the host in the store, if there is one.
  void add(std::span<const FoundLeaf> leaves, const std::vector<bool>& sole, const Call* call) {
    finish_writes_into(leaves);
    std::vector<std::optional<Region>> regions;
    regions.reserve(leaves.size());
    for (std::size_t i = 0; i < leaves.size(); ++i)
      regions.push_back(sole[i] ? region_of(leaves[i], call) : std::nullopt);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      if (auto* on_gpu = leaves[i].on_gpu) {
        if (add_on_gpu(leaves[i], *on_gpu, sole[i], regions[i])) continue;
        ++copies_;
        note(i, leaves[i], why_not_left_.value_or(reason_on_gpu(leaves[i], *on_gpu, sole[i], regions[i].has_value())));
        continue;
      }
      // A scalar has no memory that could have been shared, so copying it does not count.
      if (add(leaves[i], regions[i]) || leaves[i].is_scalar) continue;
      ++copies_;
      if (in_place_) note(i, leaves[i], CopyReason::host);
      else if (to_gpu()) note(i, leaves[i], CopyReason::device);
      else if (to_pinned()) note(i, leaves[i], reason_for_pinned(leaves[i], sole[i], regions[i].has_value()));
      else if (call) note(i, leaves[i], reason_for(leaves[i], sole[i], regions[i].has_value(), *call));
    }
  }

  PyRef seal(ipc::Description description) {
    manifest_.structure = std::move(description.structure);
    manifest_.guise = std::move(description.guise);
    std::vector<const std::byte*> addresses(taken_.begin(), taken_.end());
    for (const auto& made : made_) addresses.push_back(made.address);
    const detail::CallDeadline deadline(timeout_);
    auto ref = detail::seal(connection_, std::move(manifest_), addresses, copied_bytes_, &wait_unlocked);
    forget_made();
    if (!ref)
      for (auto* array : taken_arrays_) array->sealed = false;
    PyRef made{value_or_raise(std::move(ref)), copies_, {}};
    if (!copied_.empty()) made.copied = std::make_shared<const std::vector<Copied>>(std::move(copied_));
    return made;
  }

  ~Depositor() { forget_made(); }

 private:
  using Region = detail::ArenaRegion;

  [[nodiscard]] bool to_gpu() const { return device_ && !device_->is_host(); }
  [[nodiscard]] bool to_pinned() const { return device_ == Device::pinned(); }
  /// Where arrays of NumPy are to be.
  [[nodiscard]] Device device() const { return device_.value_or(Device::cpu()); }

  /// What GPUs were to write into arrays of muster.empty must be there. One wait is for all.
  static void finish_writes_into(std::span<const FoundLeaf> leaves) {
    for (const auto& leaf : leaves)
      if (const auto* memory = writable_under(leaf.array.ptr()); memory && memory->device() == Device::pinned())
        return finish_writes(*memory);
  }

  /// Returns the region that the array lies in, if it can be taken over as it is: one of the call's, or of
  /// muster.empty.
  std::optional<Region> region_of(const FoundLeaf& leaf, const Call* call) {
    if (leaf.on_gpu) return region_of_foreign(*leaf.on_gpu);
    if (to_gpu()) return std::nullopt;
    auto* array = as_array(leaf.array);
    const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(array));
    if (bytes == 0 || !PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) return std::nullopt;
    const auto* data = static_cast<const std::byte*>(PyArray_DATA(array));
    const auto* memory = writable_under(leaf.array.ptr());
    auto region = memory ? region_of(*memory) : call ? region_of(*call, data) : std::nullopt;
    if (!region || data + bytes > region->address + region->bytes) return std::nullopt;
    used_bytes_[region->address] += bytes;
    return region;
  }

  std::optional<Region> region_of(const Call& call, const std::byte* data) const {
    auto region = connection_->arena().find(data);
    return region && region->call == call.id() ? region : std::nullopt;
  }

  /// Of memory that another library allocated in the call on its GPU.
  std::optional<Region> region_of_foreign(const DeviceArray& array) {
    if (!gpu_call_ || !array.other.is_valid() || array.bytes() == 0) return std::nullopt;
    const auto* data = static_cast<const std::byte*>(array.data);
    const auto region = gpu_call_->find(data);
    if (!region || data + array.bytes() > region->address + region->bytes) return std::nullopt;
    used_bytes_[region->address] += array.bytes();
    return region;
  }

  [[nodiscard]] std::optional<Region> region_of(const Writable& memory) const {
    const bool is_taken = !memory.sealed && memory.connection == connection_ && memory.device() == device();
    return is_taken ? memory.arena.find(memory.address) : std::nullopt;
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
      case NotStored::too_large: return CopyReason::too_large;
      case NotStored::full: return CopyReason::full;
      case NotStored::elsewhere: break;
    }
    return CopyReason::elsewhere;
  }

  static CopyReason reason_for_pinned(const FoundLeaf& leaf, bool sole, bool in_store) {
    const auto* memory = writable_under(leaf.array.ptr());
    if (!memory || memory->device() != Device::pinned()) return CopyReason::device;
    if (!leaf.as_given) return is_native(as_array(leaf.array)) ? CopyReason::library : CopyReason::order;
    if (!sole) return CopyReason::kept;
    return in_store ? CopyReason::small_part : CopyReason::order;
  }

  void note(std::size_t index, const FoundLeaf& leaf, CopyReason reason) {
    nb::object kept;
    if (reason == CopyReason::kept) {
      const bool is_foreign = leaf.on_gpu && leaf.on_gpu->other.is_valid();
      kept = nb::steal(PyWeakref_NewRef((is_foreign ? leaf.on_gpu->other : leaf.array).ptr(), nullptr));
      PyErr_Clear();  // without a weak reference, nobody learns who keeps the array
    }
    copied_.push_back({index, reason, std::move(kept)});
  }

  /// Returns false if the array was copied.
  bool add(const FoundLeaf& leaf, const std::optional<Region>& region) {
    auto* array = as_array(leaf.array);
    const auto bytes = static_cast<std::uint64_t>(PyArray_NBYTES(array));
    const auto shape = shape_of(array);
    if (bytes == 0) return place({}, 0, leaf, shape, device()), true;
    if (to_gpu()) return copy_to_gpu(leaf, bytes, shape), false;
    if (!region || !is_most_of(*region)) return copy(leaf, array, bytes, shape), false;
    const auto* data = static_cast<const std::byte*>(PyArray_DATA(array));
    taken_.push_back(region->address);
    place(region->segment, region->offset + static_cast<std::uint64_t>(data - region->address), leaf, shape, device());
    return true;
  }

  void place(ipc::SegmentId segment, std::uint64_t offset, const FoundLeaf& leaf, const Shape& shape, Device device) {
    value_or_raise(manifest_.add(segment, offset, leaf.dtype, shape, device));
  }

  Region make(std::uint64_t bytes, Device device) {
    auto& arena = *value_or_raise(detail::arena_on(*connection_, device));
    auto region = arena.allocate_here(bytes, 0);
    if (!region)
      region = arena.find(call_unlocked([&] {
        const detail::CallDeadline deadline(timeout_);
        return arena.allocate(bytes, 0, timeout_);
      }));
    made_.push_back({&arena, region->address});
    return *region;
  }

  void copy(const FoundLeaf& leaf, PyArrayObject* array, std::uint64_t bytes, const Shape& shape) {
    const Region region = make(bytes, device());
    copy_dense(array, region.address);
    copied_bytes_ += bytes;
    place(region.segment, region.offset, leaf, shape, device());
  }

  // ---- memory of GPUs ----

  void copy_to_gpu(const FoundLeaf& leaf, std::uint64_t bytes, const Shape& shape) {
    const nb::object dense = nb::steal(PyArray_FromAny(leaf.array.ptr(), descr_of(leaf.dtype), 0, 0,
                                                       NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_FORCECAST, nullptr));
    if (!dense.is_valid()) throw nb::python_error();
    const Region region = make(bytes, *device_);
    call_unlocked([&] { return copy_on_gpu(region.address, PyArray_DATA(as_array(dense)), bytes); });
    copied_bytes_ += bytes;
    place(region.segment, region.offset, leaf, shape, *device_);
  }

  [[nodiscard]] bool may_take(const DeviceArray& array, Device device, bool sole) const {
    return sole && array.writable() && array.lease->connection == connection_ && array.device == device;
  }

  /// Leaves another library's array where it is. Returns false if it has to be copied.
  bool leave_in_place(const FoundLeaf& leaf, const DeviceArray& array, Device device) {
    why_not_left_.reset();
    if (!in_place_) return false;
    why_not_left_ = why_not_left(leaf, array);
    if (why_not_left_) return false;
    if (device_ && !is_on(*connection_, array, device)) {
      why_not_left_ = CopyReason::device;
      return false;
    }
    auto owner = kept_for_others(allocators("keeper_of")(array.other));
    const auto place = call_unlocked([&] {
      const detail::CallDeadline deadline(timeout_);
      return in_place_->leave(array.data, device, std::move(owner), timeout_);
    });
    if (!place) {
      why_not_left_ = CopyReason::no_handle;
      return false;
    }
    this->place(place->segment, place->offset, leaf, array.shape, device);
    return true;
  }

  static std::optional<CopyReason> why_not_left(const FoundLeaf& leaf, const DeviceArray& array) {
    if (!array.other.is_valid()) return CopyReason::stored;
    if (!leaf.as_given || reinterpret_cast<std::uintptr_t>(array.data) % size_of(array.dtype) != 0)
      return CopyReason::order;
    return std::nullopt;
  }

  /// Returns false if the array was copied.
  bool add_on_gpu(const FoundLeaf& leaf, DeviceArray& array, bool sole, const std::optional<Region>& made) {
    const Device device = device_ ? *device_ : device_of(connection_, array);
    if (array.bytes() == 0) return place({}, 0, leaf, array.shape, device), true;
    // What was written into it, or is to be copied from it, must be there.
    call_unlocked([&] { return finish_work_on(array); });
    if (leave_in_place(leaf, array, device)) return true;
    if (made && is_most_of(*made)) {
      const auto offset = static_cast<std::uint64_t>(static_cast<std::byte*>(array.data) - made->address);
      taken_.push_back(made->address);
      return place(made->segment, made->offset + offset, leaf, array.shape, device), true;
    }
    const bool is_taken = std::ranges::find(taken_arrays_, &array) != taken_arrays_.end();
    if (is_taken || may_take(array, device, sole)) {
      const Region& region = array.lease->region;
      taken_.push_back(region.address);
      taken_arrays_.push_back(&array);
      array.sealed = true;
      return place(region.segment, region.offset, leaf, array.shape, device), true;
    }
    const Region region = make(array.bytes(), device);
    call_unlocked([&] { return copy_on_gpu(region.address, array.data, array.bytes()); });
    copied_bytes_ += array.bytes();
    return place(region.segment, region.offset, leaf, array.shape, device), false;
  }

  [[nodiscard]] CopyReason reason_on_gpu(const FoundLeaf& leaf, const DeviceArray& array, bool sole,
                                         bool in_store) const {
    if (array.other.is_valid()) return reason_for_foreign(leaf, array, in_store);
    if (array.opening || array.sealed) return CopyReason::stored;
    if (device_ && array.device != *device_) return CopyReason::device;
    return sole ? CopyReason::elsewhere : CopyReason::kept;
  }

  [[nodiscard]] CopyReason reason_for_foreign(const FoundLeaf& leaf, const DeviceArray& array, bool in_store) const {
    if (in_store) return CopyReason::small_part;
    if (is_on_another_gpu(array)) return CopyReason::device;
    if (!leaf.as_given) return CopyReason::order;
    if (!gpu_call_) return CopyReason::library;
    if (gpu_call_->find(array.data)) return leaf.holds ? CopyReason::kept : CopyReason::library;
    switch (gpu_call_->why_not_stored(array.data)) {
      case NotStored::too_large: return CopyReason::share;
      case NotStored::full: return CopyReason::full;
      case NotStored::elsewhere: break;
    }
    return CopyReason::elsewhere;
  }

  [[nodiscard]] bool is_on_another_gpu(const DeviceArray& array) const {
    auto* const cuda = detail::Cuda::if_open();
    return gpu_call_ && cuda && cuda->ordinal_of(array.data) != gpu_call_->ordinal();
  }

  /// From here on only the object keeps the regions. If there is none, this frees them.
  void forget_made() {
    for (const auto& made : made_) made.arena->free(made.address);
    made_.clear();
  }

  const ConnectionPtr& connection_;
  std::chrono::nanoseconds timeout_;
  std::optional<detail::InPlace> in_place_;  ///< set if arrays of GPUs are to be left where they are
  std::optional<CopyReason> why_not_left_;   ///< of the latest one
  ipc::Manifest manifest_;
  std::unordered_map<const std::byte*, std::uint64_t>
      used_bytes_;  ///< for each region: bytes that the object's leaves use
  std::optional<Device> device_;
  const GpuCall* gpu_call_;
  std::vector<std::byte*> taken_;
  std::vector<DeviceArray*> taken_arrays_;  ///< the value has them
  struct Made {
    detail::Arena* arena;
    std::byte* address;
  };
  std::vector<Made> made_;
  int copies_ = 0;
  std::vector<Copied> copied_;
  std::uint64_t copied_bytes_ = 0;
};

/// Whether this interpreter's reference counts allow zero copies, for results of plain calls and of awaited calls.
bool counts_are_known[2] = {false, false};

}  // namespace

Result<void> wait_unlocked(const std::function<Result<void>()>& wait) { return unlocked(wait); }

namespace {

/// Asks what keeps the memory of those leaves that other libraries allocated in the call.
void find_holders(Tree& tree, const GpuCall& call) {
  for (auto& leaf : tree.leaves)
    if (leaf.on_gpu && leaf.on_gpu->other.is_valid() && leaf.as_given && call.find(leaf.on_gpu->data))
      leaf.holds = nb::cast<std::optional<FoundLeaf::Holds>>(allocators("holds")(leaf.on_gpu->other));
}

/// Nobody else has these leaves' objects. Libraries may have more that shares their memory, and can tell.
void ask_libraries(const Tree& tree, std::vector<bool>& sole) {
  std::vector<std::size_t> asked;
  nb::list arrays;
  for (std::size_t i = 0; i < tree.leaves.size(); ++i)
    if (sole[i] && tree.leaves[i].holds) {
      asked.push_back(i);
      arrays.append(tree.leaves[i].on_gpu->other);
    }
  if (asked.empty()) return;
  const auto answers = nb::cast<std::vector<bool>>(allocators("are_sole")(arrays));
  for (std::size_t i = 0; i < asked.size(); ++i) sole[asked[i]] = answers.at(i);
}

}  // namespace

PyRef deposit(const ConnectionPtr& connection, nb::handle root, const Call* call, Py_ssize_t root_references,
              Timeout timeout, std::optional<Device> device, const GpuCall* gpu_call, bool in_place) {
  let_go_of_what_is_over(connection);
  Tree tree = take_apart(root);
  if (gpu_call) find_holders(tree, *gpu_call);
  std::vector<bool> sole(tree.leaves.size(), false);
  if (root_references > 0) sole = sole_owners(tree, root, root_references);
  ask_libraries(tree, sole);
  Depositor depositor(connection, timeout, device, gpu_call, in_place);
  depositor.add(tree.leaves, sole, call);
  return depositor.seal(std::move(tree.description));
}

namespace {

/// Deposits the result of a decorated call. In a child that was forked during the call, copies everything over the
/// child's own connection.
PyRef deposit_result(const Call& call, nb::handle result, bool counts_known, Timeout timeout) {
  if (!call.connection()->inherited())
    return deposit(call.connection(), result, &call, counts_known ? 1 : 0, timeout, {});
  const auto own = nb::cast<ConnectionPtr>(nb::module_::import_("muster._runtime").attr("connection")());
  return deposit(own, result, nullptr, 0, timeout, {});
}

PyRef run(const ConnectionPtr& connection, nb::handle function, nb::handle args, nb::handle kwargs,
          nb::handle timeout) {
  const Timeout deadline = deadline_from(timeout);
  Call call(connection);
  call.enter();
  nb::object result = call_user(function, args, kwargs);
  call.leave();
  if (!result.is_valid()) throw nb::python_error();
  return deposit_result(call, result, counts_are_known[0], deadline);
}

/// The same for a call whose arrays are to be on a GPU, or in pinned memory. NumPy's arrays are copied there, so they
/// need not be made in the store. `routed` has what other libraries allocate meanwhile; None: nothing. It is left
/// before anything is taken over: libraries may use memory again that was given back to them.
PyRef run_on(const ConnectionPtr& connection, nb::handle function, nb::handle args, nb::handle kwargs,
             nb::handle timeout, nb::handle device, nb::handle routed) {
  const Timeout deadline = deadline_from(timeout);
  const Device there = device_from(device);
  const nb::object result = call_user(function, args, kwargs);
  if (!result.is_valid()) throw nb::python_error();
  const GpuCall* gpu_call = nullptr;
  if (!routed.is_none()) {
    routed.attr("leave")();
    if (!connection->inherited()) gpu_call = nb::cast<const GpuCall*>(routed.attr("call"));
  }
  return deposit(connection, result, nullptr, counts_are_known[0] ? 1 : 0, deadline, there, gpu_call);
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
  module.def("run_on", &run_on, nb::arg("connection"), nb::arg("function"), nb::arg("args"), nb::arg("kwargs"),
             nb::arg("timeout").none(), nb::arg("device"), nb::arg("routed").none());
  module.def(
      "finish_on",
      [](const ConnectionPtr& connection, nb::handle result, nb::handle timeout, nb::handle device) {
        const Device there = device_from(device);
        return deposit(connection, result, nullptr, counts_are_known[1] ? 1 : 0, deadline_from(timeout), there);
      },
      nb::arg("connection"), nb::arg("result").none(), nb::arg("timeout").none(), nb::arg("device"));
  module.def(
      "put",
      [](const ConnectionPtr& connection, nb::handle value, nb::handle timeout, nb::handle device, bool in_place) {
        const auto there = device.is_none() ? std::nullopt : std::optional(device_from(device));
        return deposit(connection, value, nullptr, 0, deadline_from(timeout), there, nullptr, in_place);
      },
      nb::arg("connection"), nb::arg("value").none(), nb::arg("timeout").none(), nb::arg("device").none(),
      nb::arg("in_place"));
  module.def("trust_counts", [](bool of_calls, bool of_awaits) {
    counts_are_known[0] = of_calls;
    counts_are_known[1] = of_awaits;
  });
}

}  // namespace muster::python
