// Modules and the kernels in them. The code that runs is a host function: see kernels.h.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <cuda.h>

#include "kernels.h"

namespace fake_gpu {

class Context;
struct Module;

struct Kernel {
  Module* module = nullptr;
  std::string name;
  muster_host_kernel run = nullptr;
  const std::size_t* parameter_bytes = nullptr;  // ends with 0; null if the library doesn't say
  int dynamic_shared_bytes_max = 48 << 10;
};

struct Module {
  Context* context = nullptr;  // null for a library, which is loaded into every context that uses it
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
};

}  // namespace fake_gpu
