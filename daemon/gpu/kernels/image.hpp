// The compiled kernels, which travel inside of the executable.
#pragma once

#include <cstddef>
#include <span>

namespace musterd::gpu::kernels {

/// A fatbin for cuModuleLoadData: machine code of several architectures, and PTX, which the driver compiles for others.
/// Empty if this build had no nvcc; image_missing tells then.
[[nodiscard]] std::span<const std::byte> image();

/// Why image() is empty, for people, e.g. "this musterd was built without nvcc"; empty if it is not.
[[nodiscard]] const char* image_missing();

}  // namespace musterd::gpu::kernels
