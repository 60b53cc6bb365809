// CUDA Driver API, 6.22 Execution Control: launches. And what other fakes and host kernels may ask: see kernels.h.
#include <algorithm>
#include <cstring>

#include "driver.hpp"

using namespace fake_gpu;

namespace fake_gpu {

Kernel& known_kernel(const void* handle) {
  for (const auto& [raw, module] : driver().modules)
    for (const auto& [name, kernel] : module->kernels)
      if (kernel.get() == handle) return *kernel;
  throw Failure{CUDA_ERROR_INVALID_HANDLE};
}

}  // namespace fake_gpu

namespace {

constexpr std::size_t alignment_max = 16;

/// The arguments of a launch, copied when it is called.
struct Arguments {
  std::vector<std::vector<char>> values;
  std::vector<void*> pointers;
};

std::shared_ptr<Arguments> copy_parameters(const Kernel& kernel, void** parameters) {
  auto arguments = std::make_shared<Arguments>();
  for (const auto* bytes = kernel.parameter_bytes; *bytes != 0; ++bytes, ++parameters) {
    require_value(*parameters != nullptr);
    const auto* value = static_cast<const char*>(*parameters);
    arguments->values.emplace_back(value, value + *bytes);
  }
  for (auto& value : arguments->values) arguments->pointers.push_back(value.data());
  return arguments;
}

/// 6.22, cuLaunchKernel: a buffer has the arguments one after the other, each aligned as its type is.
std::shared_ptr<Arguments> copy_buffer(const Kernel& kernel, void** extra) {
  const char* buffer = nullptr;
  std::size_t size = 0;
  for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
    if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = static_cast<const char*>(extra[1]);
    else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *static_cast<const std::size_t*>(extra[1]);
    else throw Failure{CUDA_ERROR_INVALID_VALUE};
  }
  auto arguments = std::make_shared<Arguments>();
  std::size_t at = 0;
  for (const auto* bytes = kernel.parameter_bytes; *bytes != 0; ++bytes) {
    const auto alignment = std::min(*bytes & (~*bytes + 1), alignment_max);
    at = (at + alignment - 1) / alignment * alignment;
    require_value(buffer != nullptr && at + *bytes <= size);
    arguments->values.emplace_back(buffer + at, buffer + at + *bytes);
    at += *bytes;
  }
  for (auto& value : arguments->values) arguments->pointers.push_back(value.data());
  return arguments;
}

// 6.22, cuLaunchKernel, and "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide.
void require_shape(const fake_launch& launch, const Kernel& kernel) {
  for (int axis = 0; axis < 3; ++axis) require_value(launch.grid[axis] > 0 && launch.block[axis] > 0);
  require_value(launch.grid[0] <= 2147483647U && launch.grid[1] <= 65535 && launch.grid[2] <= 65535);
  require_value(launch.block[0] <= 1024 && launch.block[1] <= 1024 && launch.block[2] <= 64);
  require_value(std::uint64_t{launch.block[0]} * launch.block[1] * launch.block[2] <= 1024);
  require_value(launch.shared_bytes <= static_cast<std::size_t>(kernel.dynamic_shared_bytes_max));
}

Work work_of(const Kernel& kernel, const fake_launch& launch, void** parameters, std::shared_ptr<Arguments> arguments) {
  Work work;
  work.run = [run = kernel.run, launch, parameters, arguments] {
    run(&launch, arguments ? arguments->pointers.data() : parameters);
    const std::scoped_lock lock(driver().mutex);
    running()->pinned.clear();
    driver().progress.notify_all();
    return CUDA_SUCCESS;
  };
  return work;
}

void launch_kernel(Call& c, const void* function, fake_launch launch, CUstream handle, void** parameters,
                   void** extra) {
  const auto& kernel = known_kernel(function);
  const auto stream = c.context().stream(handle);
  auto* context = kernel.module->context;
  require(context == nullptr || context == &stream->context(), CUDA_ERROR_INVALID_HANDLE);
  require_value(parameters == nullptr || extra == nullptr);
  launch.device = stream->context().ordinal();
  require_shape(launch, kernel);
  std::shared_ptr<Arguments> arguments;
  if (kernel.parameter_bytes != nullptr && *kernel.parameter_bytes != 0) {
    require_value(parameters != nullptr || extra != nullptr);
    arguments = extra != nullptr ? copy_buffer(kernel, extra) : copy_parameters(kernel, parameters);
  }
  const auto point = stream->enqueue(work_of(kernel, launch, parameters, arguments));
  if (kernel.parameter_bytes == nullptr) c.wait([&] { return point.reached(); });
}

/// Finds memory for the work of this thread, and keeps it there until the work is done.
void* address_for_work(Running& work, CUdeviceptr address, std::size_t bytes, Access access) {
  auto& space = driver().addresses;
  const std::scoped_lock lock(driver().mutex);
  void* memory = space.shadow(work.context, address, bytes, access);
  if (memory != nullptr) {
    work.pinned.emplace_back(space.find(address));
    return memory;
  }
  auto* pointer = reinterpret_cast<void*>(address);
  const auto* host = space.find_host(pointer, bytes);
  const bool read_only = host != nullptr && host->registered && (host->flags & CU_MEMHOSTREGISTER_READ_ONLY) != 0;
  if (host != nullptr && (access == Access::read || !read_only)) return pointer;
  work.illegal_address = true;
  return nullptr;
}

}  // namespace

extern "C" {

// 6.22, cuLaunchKernel: the arguments are copied before the call returns.
CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                                unsigned int block_x, unsigned int block_y, unsigned int block_z,
                                unsigned int shared_bytes, CUstream stream, void** parameters, void** extra) {
  return call(__func__, Need::context, [&](Call& c) {
    const fake_launch launch{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, 0};
    launch_kernel(c, function, launch, stream, parameters, extra);
  });
}

// 6.22, cuLaunchKernelEx: attributes change nothing here.
CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(config != nullptr && (config->numAttrs == 0 || config->attrs != nullptr));
    const fake_launch launch{{config->gridDimX, config->gridDimY, config->gridDimZ},
                             {config->blockDimX, config->blockDimY, config->blockDimZ},
                             config->sharedMemBytes,
                             0};
    launch_kernel(c, function, launch, config->hStream, parameters, extra);
  });
}

void* muster_fake_gpu_host_address(unsigned long long address, size_t bytes, int write) {
  const auto access = write != 0 ? Access::write : Access::read;
  if (running() != nullptr) return address_for_work(*running(), address, bytes, access);
  const std::scoped_lock lock(driver().mutex);
  return driver().addresses.shadow(nullptr, address, bytes, access);
}

int muster_fake_gpu_enqueue(void* stream, muster_fake_gpu_work function, void* argument) {
  return call(__func__, Need::context, [&](Call& c) {
    Work work;
    work.run = [function, argument] {
      const auto result = static_cast<CUresult>(function(argument));
      const std::scoped_lock lock(driver().mutex);
      running()->pinned.clear();
      return result;
    };
    c.context().stream(static_cast<CUstream>(stream))->enqueue(std::move(work));
  });
}

int muster_fake_gpu_must_end() {
  if (running() == nullptr) return 0;
  const std::scoped_lock lock(driver().mutex);
  const auto& context = *running()->context;
  return context.ending() || context.broken() != CUDA_SUCCESS ? 1 : 0;
}

size_t muster_fake_gpu_books(char* text, size_t bytes) {
  const auto books = books_as_json();
  if (text != nullptr && bytes > books.size()) std::memcpy(text, books.c_str(), books.size() + 1);
  return books.size();
}

}  // extern "C"
