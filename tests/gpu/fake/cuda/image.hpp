// Images of GPU code: whether one is for this device. The format of fat binaries is described in CUDA's
// fatbinary_section.h and by what cuobjdump prints.
#pragma once

#include <cuda.h>

#include "settings.hpp"

namespace fake_gpu {

/// CUDA_ERROR_INVALID_IMAGE for what is no image; CUDA_ERROR_NO_BINARY_FOR_GPU for one without code for the device.
CUresult check_image(const void* image, const DeviceSettings& device);

}  // namespace fake_gpu
