// NCCL User Guide, "ncclMemAlloc", "ncclMemFree", "ncclCommRegister", "ncclCommDeregister", "User Defined Reduction
// Operators".
#include <mutex>

#include "call.hpp"
#include "kernels.h"

using namespace fake_nccl;

namespace {

struct Allocation {
  CUmemGenericAllocationHandle handle = 0;
  std::size_t bytes = 0;
  std::shared_ptr<Counted> counted;
};

std::mutex memory_mutex;
std::map<void*, Allocation> allocations;

CUmemAllocationProp properties_of(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

/// Gives an allocation back as far as it was made.
void give_back(CUdeviceptr address, const Allocation& allocation, bool mapped) {
  if (mapped) require_cuda(cuMemUnmap(address, allocation.bytes), "cuMemUnmap");
  if (address != 0) require_cuda(cuMemAddressFree(address, allocation.bytes), "cuMemAddressFree");
  if (allocation.handle != 0) require_cuda(cuMemRelease(allocation.handle), "cuMemRelease");
}

CUdeviceptr map(Allocation& allocation, int device) {
  CUdeviceptr address = 0;
  bool mapped = false;
  const auto properties = properties_of(device);
  try {
    require_cuda(cuMemCreate(&allocation.handle, allocation.bytes, &properties, 0), "cuMemCreate");
    require_cuda(cuMemAddressReserve(&address, allocation.bytes, 0, 0, 0), "cuMemAddressReserve");
    require_cuda(cuMemMap(address, allocation.bytes, 0, allocation.handle, 0), "cuMemMap");
    mapped = true;
    const CUmemAccessDesc access{properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    require_cuda(cuMemSetAccess(address, allocation.bytes, &access, 1), "cuMemSetAccess");
  } catch (const Failure&) {
    give_back(address, allocation, mapped);
    throw;
  }
  return address;
}

int next_reduce_op() {
  static std::atomic<int> last = ncclNumOps;
  return ++last;
}

}  // namespace

extern "C" {

// "ncclMemAlloc": memory of this thread's device by cuMemCreate, so that it can be shared; whole granules.
ncclResult_t ncclMemAlloc(void** pointer, size_t bytes) {
  return call([&] {
    require_argument(pointer != nullptr && bytes > 0, "ptr argument is NULL, or size is 0");
    const auto device = current_device();
    inject("ncclMemAlloc", device.ordinal);
    const auto properties = properties_of(device.ordinal);
    std::size_t granule = 0;
    require_cuda(cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                 "cuMemGetAllocationGranularity");
    Allocation allocation;
    allocation.bytes = (bytes + granule - 1) / granule * granule;
    const auto address = map(allocation, device.ordinal);
    allocation.counted = std::make_shared<Counted>(device.ordinal, "nccl_memory");
    *pointer = reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
    const std::scoped_lock lock(memory_mutex);
    allocations[*pointer] = allocation;
    return ncclSuccess;
  });
}

// "ncclMemFree": of memory by ncclMemAlloc.
ncclResult_t ncclMemFree(void* pointer) {
  return call([&] {
    if (pointer == nullptr) return ncclSuccess;
    inject("ncclMemFree", device_of_thread());
    const std::scoped_lock lock(memory_mutex);
    const auto found = allocations.find(pointer);
    require_argument(found != allocations.end(), "the memory isn't of ncclMemAlloc");
    require_cuda(cuCtxSynchronize(), "cuCtxSynchronize");
    give_back(reinterpret_cast<CUdeviceptr>(pointer), found->second, true);
    allocations.erase(found);
    return ncclSuccess;
  });
}

// "ncclCommRegister": memory of a device.
ncclResult_t ncclCommRegister(ncclComm_t handle, void* buffer, size_t bytes, void** registration) {
  return call([&] {
    const auto communicator = Communicator::find(handle);
    const auto device = communicator->device().ordinal;
    inject("ncclCommRegister", device);
    communicator->require_ready();
    require_argument(buffer != nullptr && bytes > 0 && registration != nullptr, "an argument is NULL, or size is 0");
    const bool is_memory = muster_fake_gpu_host_address(reinterpret_cast<CUdeviceptr>(buffer), bytes, 0) != nullptr;
    require_argument(is_memory, "the buffer isn't memory of a device");
    const auto counted = std::make_shared<Counted>(device, "registered_buffers");
    communicator->registered[counted.get()] = counted;
    *registration = counted.get();
    return ncclSuccess;
  });
}

// "ncclCommDeregister": a handle of this communicator.
ncclResult_t ncclCommDeregister(ncclComm_t handle, void* registration) {
  return call([&] {
    const auto communicator = Communicator::find(handle);
    inject("ncclCommDeregister", communicator->device().ordinal);
    require_argument(communicator->registered.erase(registration) == 1, "the handle isn't of this communicator");
    return ncclSuccess;
  });
}

// "ncclRedOpCreatePreMulSum": ncclScalarHostImmediate is read now, ncclScalarDevice when the collective runs.
ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t type,
                                      ncclScalarResidence_t residence, ncclComm_t handle) {
  return call([&] {
    const auto communicator = Communicator::find(handle);
    const auto device = communicator->device().ordinal;
    inject("ncclRedOpCreatePreMulSum", device);
    communicator->require_ready();
    require_argument(op != nullptr && scalar != nullptr, "op or scalar argument is NULL");
    const auto bytes = bytes_of(type);
    PreMultiplied made{type, {}, nullptr, std::make_shared<Counted>(device, "reduce_ops")};
    if (residence == ncclScalarDevice) made.address = scalar;
    else made.scalar.assign(static_cast<const char*>(scalar), static_cast<const char*>(scalar) + bytes);
    const int number = next_reduce_op();
    communicator->reduce_ops[number] = made;
    *op = static_cast<ncclRedOp_t>(number);
    return ncclSuccess;
  });
}

// "ncclRedOpDestroy": an op of this communicator, and none that NCCL has built in. Calls that were given it may still
// run.
ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t handle) {
  return call([&] {
    const auto communicator = Communicator::find(handle);
    inject("ncclRedOpDestroy", communicator->device().ordinal);
    require_argument(communicator->reduce_ops.erase(op) == 1, "the op isn't one that this communicator made");
    return ncclSuccess;
  });
}

}  // extern "C"
