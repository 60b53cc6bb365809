// Chooses the kernel of a call.
#include "reduce.hpp"

namespace musterd::kernels {

void reduce(const Reduce& call) { reduce_scalar(call); }

}  // namespace musterd::kernels
