#include "version.hpp"

namespace fake_nccl {

int library_version() { return FAKE_NCCL_VERSION; }

}  // namespace fake_nccl
