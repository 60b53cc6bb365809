// The conformance kernel for a fake GPU, which can't run PTX.
#include "kernels.h"

MUSTER_HOST_KERNEL_PARAMETERS(store_value, sizeof(unsigned long long), sizeof(unsigned));

extern "C" void muster_host_kernel_store_value(const fake_launch*, void** parameters) {
  const auto address = *static_cast<unsigned long long*>(parameters[0]);
  const auto value = *static_cast<unsigned*>(parameters[1]);
  if (auto* memory = muster_fake_gpu_host_address(address, sizeof(value), 1)) *static_cast<unsigned*>(memory) = value;
}
