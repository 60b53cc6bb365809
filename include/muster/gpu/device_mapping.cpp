#include <muster/gpu/device_mapping.hpp>

namespace muster::gpu {

using namespace cuda;

DeviceMapping::~DeviceMapping() {
  if (is_mapped_) driver_.mem_unmap(address_, bytes_);
  if (address_ != 0) driver_.mem_address_free(address_, bytes_);
  if (has_allocation_) driver_.mem_release(allocation_);
}

Status DeviceMapping::make(Device device) {
  const auto properties = shareable(device);
  const Status made = driver_.mem_create(&allocation_, bytes_, &properties, 0);
  has_allocation_ = made == Status::success;
  return made;
}

Status DeviceMapping::import(int fd) {
  // The manual wants the descriptor's number in the place of a pointer.
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  auto* const handle = reinterpret_cast<void*>(static_cast<std::uintptr_t>(fd));
  const Status imported = driver_.mem_import_from_shareable_handle(&allocation_, handle, HandleType::posix_descriptor);
  has_allocation_ = imported == Status::success;
  return imported;
}

Status DeviceMapping::share(int& fd) const {
  return driver_.mem_export_to_shareable_handle(&fd, allocation_, HandleType::posix_descriptor, 0);
}

Status DeviceMapping::find_device(Device& device) const {
  AllocationProperties properties{};
  const Status found = driver_.mem_get_allocation_properties(&properties, allocation_);
  device = properties.location.id;
  return found;
}

Status DeviceMapping::map(Device device, Access access) {
  if (const Status reserved = driver_.mem_address_reserve(&address_, bytes_, 0, 0, 0); reserved != Status::success) {
    address_ = 0;
    return reserved;
  }
  if (const Status mapped = driver_.mem_map(address_, bytes_, 0, allocation_, 0); mapped != Status::success)
    return mapped;
  is_mapped_ = true;
  return allow(device, access);
}

Status DeviceMapping::allow(Device device, Access access) {
  const AccessDescription description{{LocationType::device, device}, access};
  return driver_.mem_set_access(address_, bytes_, &description, 1);
}

}  // namespace muster::gpu
