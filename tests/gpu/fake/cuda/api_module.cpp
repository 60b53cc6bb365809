// CUDA Driver API, 6.10 Module Management, 6.12 Library Management; attributes of functions of 6.22 Execution Control
// and 6.25 Occupancy.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "driver.hpp"
#include "image.hpp"

using namespace fake_gpu;

namespace {

constexpr int registers_per_thread = 32;
constexpr int threads_per_block_max = 1024;
constexpr int threads_per_multiprocessor = 2048;
constexpr int blocks_per_multiprocessor = 32;
constexpr int shared_bytes_opt_in = 227 << 10;

void* kernel_library() {
  static void* library = [] {
    const char* path = std::getenv("MUSTER_FAKE_KERNELS");
    void* opened = path == nullptr ? nullptr : ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (path != nullptr && opened == nullptr) complain("MUSTER_FAKE_KERNELS", ::dlerror());
    return opened;
  }();
  return library;
}

Module& known(void* handle) {
  const auto found = driver().modules.find(static_cast<Module*>(handle));
  require(found != driver().modules.end(), CUDA_ERROR_INVALID_HANDLE);
  return *found->second;
}

Module* add_module(Context* context, int physical) {
  auto module = std::make_unique<Module>();
  module->context = context;
  auto* raw = module.get();
  driver().modules[raw] = std::move(module);
  count(physical, Item::modules, 1);
  return raw;
}

Kernel* kernel_of(Module& module, const char* name) {
  auto& kernel = module.kernels[name];
  if (kernel) return kernel.get();
  void* library = kernel_library();
  const auto symbol = std::string("muster_host_kernel_") + name;
  void* run = library == nullptr ? nullptr : ::dlsym(library, symbol.c_str());
  if (run == nullptr) {
    module.kernels.erase(name);
    throw Failure{CUDA_ERROR_NOT_FOUND};
  }
  kernel = std::make_unique<Kernel>();
  kernel->module = &module;
  kernel->name = name;
  kernel->run = reinterpret_cast<muster_host_kernel>(run);
  kernel->parameter_bytes = static_cast<const std::size_t*>(::dlsym(library, (symbol + "_parameters").c_str()));
  return kernel.get();
}

int attribute_of(const Kernel& kernel, CUfunction_attribute attribute) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return threads_per_block_max;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: return registers_per_thread;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: return kernel.dynamic_shared_bytes_max;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: return 90;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: return -1;
    default: require_value(attribute >= 0 && attribute < CU_FUNC_ATTRIBUTE_MAX); return 0;
  }
}

void set_attribute(Kernel& kernel, CUfunction_attribute attribute, int value) {
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
    return require_value(value >= -1 && value <= 100);
  require_value(attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && value >= 0 &&
                value <= shared_bytes_opt_in);
  kernel.dynamic_shared_bytes_max = value;
}

CUresult load_module(const char* name, CUmodule* module, const void* image) {
  return call(name, Need::context, [&](Call& c) {
    require_value(module != nullptr && image != nullptr);
    const auto& device = driver().device(c.context().ordinal());
    const auto checked = check_image(image, device);
    require(checked == CUDA_SUCCESS, checked);
    *module = reinterpret_cast<CUmodule>(add_module(&c.context(), device.physical));
  });
}

}  // namespace

extern "C" {

// 6.10, cuModuleLoadData, cuModuleLoadDataEx, cuModuleLoadFatBinary: into the current context.
CUresult CUDAAPI cuModuleLoadData(CUmodule* module, const void* image) { return load_module(__func__, module, image); }

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int, CUjit_option*, void**) {
  return load_module(__func__, module, image);
}

CUresult CUDAAPI cuModuleLoadFatBinary(CUmodule* module, const void* image) {
  return load_module(__func__, module, image);
}

// 6.10, cuModuleUnload: functions of the module are invalid after that.
CUresult CUDAAPI cuModuleUnload(CUmodule module) {
  return call(__func__, Need::context, [&](Call& c) {
    auto& found = known(module);
    require(found.context != nullptr, CUDA_ERROR_INVALID_HANDLE);
    c.drain(found.context->ordinal());
    count(driver().physical(found.context->ordinal()), Item::modules, -1);
    driver().modules.erase(&found);
  });
}

// 6.10, cuModuleGetFunction: CUDA_ERROR_NOT_FOUND for a name that isn't there.
CUresult CUDAAPI cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(function != nullptr && name != nullptr && *name != '\0');
    *function = reinterpret_cast<CUfunction>(kernel_of(known(module), name));
  });
}

// 6.10, cuModuleGetGlobal: there are no global variables here.
CUresult CUDAAPI cuModuleGetGlobal(CUdeviceptr*, size_t*, CUmodule module, const char* name) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(name != nullptr);
    known(module);
    throw Failure{CUDA_ERROR_NOT_FOUND};
  });
}

// 6.12, cuLibraryLoadData: needs no context.
CUresult CUDAAPI cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned int,
                                   CUlibraryOption*, void**, unsigned int) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(library != nullptr && code != nullptr);
    const auto checked = check_image(code, driver().device(0));
    require(checked == CUDA_SUCCESS, checked);
    *library = reinterpret_cast<CUlibrary>(add_module(nullptr, driver().physical(0)));
  });
}

// 6.12, cuLibraryUnload
CUresult CUDAAPI cuLibraryUnload(CUlibrary library) {
  return call(__func__, Need::healthy, [&](Call&) {
    auto& found = known(library);
    require(found.context == nullptr, CUDA_ERROR_INVALID_HANDLE);
    count(driver().physical(0), Item::modules, -1);
    driver().modules.erase(&found);
  });
}

// 6.12, cuLibraryGetKernel
CUresult CUDAAPI cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  return call(__func__, Need::healthy, [&](Call&) {
    require_value(kernel != nullptr && name != nullptr && *name != '\0');
    *kernel = reinterpret_cast<CUkernel>(kernel_of(known(library), name));
  });
}

// 6.12, cuKernelGetFunction: the function in the current context.
CUresult CUDAAPI cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(function != nullptr);
    *function = reinterpret_cast<CUfunction>(&known_kernel(kernel));
  });
}

// 6.22, cuFuncGetAttribute
CUresult CUDAAPI cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(value != nullptr);
    *value = attribute_of(known_kernel(function), attribute);
  });
}

// 6.22, cuFuncSetAttribute: dynamic shared memory up to CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN.
CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return call(__func__, Need::context, [&](Call&) { set_attribute(known_kernel(function), attribute, value); });
}

// 6.25, cuOccupancyMaxActiveBlocksPerMultiprocessor: by threads and shared memory; registers never limit here.
CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads,
                                                             size_t shared_bytes) {
  return call(__func__, Need::context, [&](Call&) {
    require_value(blocks != nullptr && threads > 0);
    known_kernel(function);
    *blocks =
        threads > threads_per_block_max ? 0 : std::min(blocks_per_multiprocessor, threads_per_multiprocessor / threads);
    if (shared_bytes > 0) *blocks = std::min(*blocks, static_cast<int>(shared_bytes_opt_in / shared_bytes));
  });
}

}  // extern "C"
