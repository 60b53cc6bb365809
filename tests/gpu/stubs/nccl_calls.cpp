// All symbols of NCCL that the product looks for, up to the version that it is compiled with. nccl.cpp has its own of
// some.
#include "gpu/nccl_calls.hpp"

#define MUSTER_STUB(member, name, since, ...) \
  extern "C" __attribute__((weak)) int name() { return 0; }
MUSTER_NCCL_CALLS(MUSTER_STUB)
