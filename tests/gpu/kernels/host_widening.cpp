#include "daemon/gpu/kernels/kernel_list.hpp"
#include "host_kernels.hpp"

namespace musterd::gpu::kernels {

MUSTERD_GPU_WIDENING_FOLDS(MUSTER_HOST_FOLD)

}  // namespace musterd::gpu::kernels
