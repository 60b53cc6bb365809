#include "device.hpp"

#include <cstring>

#include "kernels.h"

namespace fake_nccl {

void require_cuda(int code, const char* what) {
  const char* name = nullptr;
  if (code != CUDA_SUCCESS) cuGetErrorName(static_cast<CUresult>(code), &name);
  require(code == CUDA_SUCCESS, ncclUnhandledCudaError,
          std::string("Cuda failure in ") + what + ": " + (name == nullptr ? std::to_string(code) : name));
}

Device current_device() {
  Device device;
  require_cuda(cuCtxGetDevice(&device.ordinal), "cuCtxGetDevice");
  require_cuda(cuCtxGetCurrent(&device.context), "cuCtxGetCurrent");
  CUuuid uuid;
  require_cuda(cuDeviceGetUuid(&uuid, device.ordinal), "cuDeviceGetUuid");
  std::memcpy(device.uuid.data(), uuid.bytes, device.uuid.size());
  return device;
}

InContext::InContext(CUcontext context) { require_cuda(cuCtxPushCurrent(context), "cuCtxPushCurrent"); }

InContext::~InContext() {
  CUcontext popped = nullptr;
  cuCtxPopCurrent(&popped);
}

Injected inject(const char* call, int device) {
  fake_injected injected{};
  if (muster_fake_gpu_injected(call, device, &injected) != 0) return {};
  require_cuda(injected.code, "what the file inject says");
  require(injected.nccl_code == 0, static_cast<ncclResult_t>(injected.nccl_code), "the file inject says so");
  return {static_cast<ncclResult_t>(injected.nccl_later), injected.stalled_by};
}

bool stalls(std::uint64_t stamp) { return stamp != 0 && muster_fake_gpu_stalls(stamp) != 0; }

bool deaths_are_noticed() {
  static const bool noticed = [] {
    char text[16] = {};
    muster_fake_gpu_setting("nccl_deaths", text, sizeof(text));
    return std::strcmp(text, "unnoticed") != 0;
  }();
  return noticed;
}

Counted::Counted(int device, const char* item) : device_(device), item_(item) {
  muster_fake_gpu_count(device, item, 1);
}

Counted::~Counted() { muster_fake_gpu_count(device_, item_, -1); }

}  // namespace fake_nccl
