// A build without nvcc: the daemon runs, and can say why it has no kernels.
#include "daemon/gpu/kernels/image.hpp"

namespace musterd::gpu::kernels {

std::span<const std::byte> image() { return {}; }

const char* image_missing() { return "this musterd was built without nvcc, so it has no GPU kernels"; }

}  // namespace musterd::gpu::kernels
