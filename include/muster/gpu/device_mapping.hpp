// One piece of a GPU's memory as this process uses it: a handle of the memory, and addresses that it is mapped at.
#pragma once

#include <cstdint>

#include <muster/gpu/driver.hpp>

namespace muster::gpu {

/// Made here, or imported by a descriptor that another process gave. Gives both back in its destructor; work that uses
/// it must be over. The calls of CUDA need no context, but the driver must be initialized.
class DeviceMapping {
 public:
  /// `bytes`: a multiple of the granularity. The driver must outlive this.
  DeviceMapping(const cuda::Driver& driver, std::uint64_t bytes) : driver_(driver), bytes_(bytes) {}
  DeviceMapping(const DeviceMapping&) = delete;
  DeviceMapping& operator=(const DeviceMapping&) = delete;
  ~DeviceMapping();

  /// New memory of the device. OutOfMemory if it has not so much left.
  [[nodiscard]] cuda::Status make(cuda::Device device);
  /// Memory that this descriptor names.
  [[nodiscard]] cuda::Status import(int fd);
  /// A descriptor that names the memory.
  [[nodiscard]] cuda::Status share(int& fd) const;
  /// Which of this process's devices has the memory.
  [[nodiscard]] cuda::Status find_device(cuda::Device& device) const;
  /// Gives it addresses that the device may use. Read-only access keeps honest programs from mistakes: the driver lets
  /// everybody who has a descriptor choose.
  [[nodiscard]] cuda::Status map(cuda::Device device, cuda::Access access = cuda::Access::read_write);
  /// Lets the device use it once it is mapped, in this way only.
  [[nodiscard]] cuda::Status allow(cuda::Device device, cuda::Access access);

  [[nodiscard]] cuda::Address address() const { return address_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  const cuda::Driver& driver_;
  std::uint64_t bytes_;
  cuda::Allocation allocation_ = 0;
  bool has_allocation_ = false;
  cuda::Address address_ = 0;  ///< 0: no addresses are reserved
  bool is_mapped_ = false;
};

}  // namespace muster::gpu
