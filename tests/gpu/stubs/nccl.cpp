// NCCL's library with all symbols that the product looks for, of the version that STUB_NCCL_VERSION says (23200), or
// the one that it was compiled with.
#include <cstdlib>

#include "gpu/nccl_calls.hpp"

#ifndef STUB_VERSION
#define STUB_VERSION 23200
#endif

extern "C" int ncclGetVersion(int* version) {
  const char* const value = std::getenv("STUB_NCCL_VERSION");
  *version = value ? std::atoi(value) : STUB_VERSION;
  const char* const status = std::getenv("STUB_NCCL_STATUS");
  return status ? std::atoi(status) : 0;
}
