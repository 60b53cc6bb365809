// muster.DeviceArray: an array in memory of a GPU, for libraries that know GPUs. It computes nothing itself.
#pragma once

#include <memory>

#include "memory/opening.hpp"
#include "module.hpp"
#include "ops/lease.hpp"

namespace muster::python {

/// A dense array in C order. Exactly one of its three owners is set.
struct DeviceArray {
  void* data = nullptr;  ///< an address of the GPU
  DType dtype = DType::float32;
  Shape shape;
  Device device;                                   ///< as the daemon calls it; of other libraries' memory: unknown
  std::shared_ptr<detail::Lease> lease;            ///< memory of muster.empty
  std::shared_ptr<const detail::Opening> opening;  ///< an object in the store
  nb::object other;                                ///< another library's array: the user's, or a copy of it
  bool sealed = false;                             ///< an object has the memory of muster.empty

  DeviceArray() = default;
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray();

  [[nodiscard]] bool writable() const { return lease && !sealed; }
  [[nodiscard]] std::uint64_t count() const;
  [[nodiscard]] std::uint64_t bytes() const { return count() * size_of(dtype); }
};

/// An array of an object that is mapped.
[[nodiscard]] nb::object device_view(const std::shared_ptr<const detail::Opening>& opening, const ArrayView& view);
/// New memory of the store there, for muster.empty.
[[nodiscard]] nb::object empty_on(const ConnectionPtr& connection, DType dtype, Shape shape, Device device,
                                  Timeout timeout);
/// The array behind the Python object; null for any other object.
[[nodiscard]] DeviceArray* device_array(nb::handle object);
/// The device of the store with the GPU that has another library's array.
[[nodiscard]] Device device_of(const ConnectionPtr& connection, const DeviceArray& array);
/// Whether another library's array is on the GPU of this device.
[[nodiscard]] bool is_on(const Connection& connection, const DeviceArray& array, Device device);
/// The number by which CUDA knows the GPU of the store's device in this process.
[[nodiscard]] Result<int> ordinal_on(const Connection& connection, Device device);
/// Returns once everything that this process has given to the array's GPU is over.
[[nodiscard]] Result<void> finish_work_on(const DeviceArray& array);
/// Copies between memory of GPUs and of the host, and returns when that is done.
[[nodiscard]] Result<void> copy_on_gpu(void* to, const void* from, std::uint64_t bytes);

}  // namespace muster::python
