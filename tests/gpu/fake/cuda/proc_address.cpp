// CUDA Driver API, "Driver Entry Point Access": finds the function of a name and a version.
#include <string>

#include "driver.hpp"

using namespace fake_gpu;

#undef cuEventElapsedTime
#undef cuDeviceGetUuid
#undef cuGetProcAddress

extern "C" {

// The first versions of functions that have newer ones.
CUresult CUDAAPI cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end);
CUresult CUDAAPI cuCtxCreate_v2(CUcontext* context, unsigned int flags, CUdevice device);
CUresult CUDAAPI cuCtxCreate_v3(CUcontext* context, CUexecAffinityParam* parameters, int count, unsigned int flags,
                                CUdevice device);
CUresult CUDAAPI cuDeviceGetUuid(CUuuid* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }
CUresult CUDAAPI cuGetProcAddress(const char* name, void** function, int version, cuuint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

}  // extern "C"

namespace {

struct Symbol {
  const char* name;
  int version;
  void* function;
};

#define SYMBOL(name, version, symbol) {#name, version, reinterpret_cast<void*>(&symbol)},
const Symbol symbols[] = {
#include "symbols.inc"
};
#undef SYMBOL

/// The newest function of this name that this version of CUDA has; says in `known` whether any version has it.
void* find(const std::string& name, int version, bool& known) {
  const Symbol* best = nullptr;
  for (const auto& symbol : symbols) {
    if (name != symbol.name) continue;
    known = true;
    if (symbol.version <= version && (best == nullptr || best->version < symbol.version)) best = &symbol;
  }
  return best == nullptr ? nullptr : best->function;
}

}  // namespace

extern "C" {

// "Driver Entry Point Access", cuGetProcAddress: a name or version that isn't there is no error; the function is null
// then, and the status says which. A version beyond the driver's is CUDA_ERROR_INVALID_VALUE.
CUresult CUDAAPI cuGetProcAddress_v2(const char* name, void** function, int version, cuuint64_t flags,
                                     CUdriverProcAddressQueryResult* status) {
  return call(__func__, Need::nothing, [&](Call&) {
    require_value(name != nullptr && function != nullptr);
    require_value(flags <= (CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM));
    *function = nullptr;
    const int newest = driver().initialized ? driver().settings.driver_version : read_settings().driver_version;
    require_value(version <= newest);
    bool known = false;
    *function = find(name, version, known);
    if (status == nullptr) return;
    *status = *function != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS
              : known              ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                                   : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  });
}

}  // extern "C"
