// All symbols of the driver's library that the product looks for. cuda.cpp has its own of some.
#include <muster/gpu/driver_calls.hpp>

#define MUSTER_STUB(member, name, symbol, since, ...) \
  extern "C" __attribute__((weak)) int symbol() { return 0; }
MUSTER_DRIVER_CALLS(MUSTER_STUB)
