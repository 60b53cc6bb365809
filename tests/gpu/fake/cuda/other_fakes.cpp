// What other fakes may ask of this one, for the same books, settings and injections: see kernels.h.
#include <cstdio>

#include "driver.hpp"
#include "kernels.h"

using namespace fake_gpu;

extern "C" {

int muster_fake_gpu_injected(const char* name, int device, fake_injected* injected_here) {
  // Not a call of CUDA's: nothing of its own is injected into it.
  try {
    int physical = -1;
    {
      const std::scoped_lock lock(driver().mutex);
      if (driver().initialized && device >= 0) physical = driver().physical(device);
    }
    const auto found = injected(name, physical, false);
    *injected_here = {static_cast<int>(found.code), found.nccl_code, found.nccl_later, found.stalled_by};
    return CUDA_SUCCESS;
  } catch (const std::exception& error) {
    complain(name, error.what());
    return CUDA_ERROR_UNKNOWN;
  }
}

int muster_fake_gpu_stalls(unsigned long long stalled_by) { return stalls(stalled_by) ? 1 : 0; }

void muster_fake_gpu_count(int device, const char* item, long long change) {
  const std::scoped_lock lock(driver().mutex);
  const bool known = driver().initialized && device >= 0;
  count(known ? driver().physical(device) : 0, item, change);
}

int muster_fake_gpu_setting(const char* name, char* text, size_t bytes) {
  const std::scoped_lock lock(driver().mutex);
  if (!driver().initialized) return CUDA_ERROR_NOT_INITIALIZED;
  if (std::string(name) != "nccl_deaths") return CUDA_ERROR_INVALID_VALUE;
  std::snprintf(text, bytes, "%s", driver().settings.nccl_deaths.c_str());
  return CUDA_SUCCESS;
}

}  // extern "C"
