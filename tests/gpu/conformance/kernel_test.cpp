// CUDA Driver API, 6.10 Module Management, 6.12 Library Management, 6.22 Execution Control, 6.25 Occupancy.
#include <array>

#include "gpu.hpp"
#include "kernel.hpp"

using namespace conformance;

namespace {

class Module {
 public:
  Module() { REQUIRE_CU(CU(cuModuleLoadData)(&module_, kernel_image)); }
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  ~Module() { CHECK(CU(cuModuleUnload)(module_) == CUDA_SUCCESS); }
  [[nodiscard]] CUmodule get() const { return module_; }
  [[nodiscard]] CUfunction function() const {
    CUfunction function = nullptr;
    REQUIRE_CU(CU(cuModuleGetFunction)(&function, module_, "store_value"));
    return function;
  }

 private:
  CUmodule module_ = nullptr;
};

CUresult launch(CUfunction function, CUdeviceptr address, unsigned value, CUstream stream) {
  std::array<void*, 2> parameters{&address, &value};
  return CU(cuLaunchKernel)(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters.data(), nullptr);
}

unsigned value_at(CUdeviceptr address) {
  unsigned value = 0;
  REQUIRE_CU(CU(cuMemcpyDtoH)(&value, address, sizeof(value)));
  return value;
}

}  // namespace

TEST_CASE("a kernel runs in its stream, with the arguments of its launch") {
  const PrimaryContext context;
  const Module module;
  const Memory memory(8);
  const Stream stream;
  Gate gate;
  gate.close(stream.get());
  REQUIRE_CU(launch(module.function(), memory.get(), 1, stream.get()));
  REQUIRE_CU(launch(module.function(), memory.get() + 4, 2, stream.get()));
  gate.open();
  CHECK(value_at(memory.get()) == 1);
  CHECK(value_at(memory.get() + 4) == 2);
}

TEST_CASE("arguments may come in a buffer, but not in both ways") {
  const PrimaryContext context;
  const Module module;
  const Memory memory(4);
  struct {
    CUdeviceptr address;
    unsigned value;
  } buffer{memory.get(), 77};
  std::size_t bytes = 12;
  std::array<void*, 5> extra{CU_LAUNCH_PARAM_BUFFER_POINTER, &buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                             CU_LAUNCH_PARAM_END};
  REQUIRE_CU(CU(cuLaunchKernel)(module.function(), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra.data()));
  CHECK(value_at(memory.get()) == 77);
  std::array<void*, 2> parameters{&buffer.address, &buffer.value};
  CHECK(CU(cuLaunchKernel)(module.function(), 1, 1, 1, 1, 1, 1, 0, nullptr, parameters.data(), extra.data()) ==
        CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("cuLaunchKernelEx launches what its configuration says") {
  const PrimaryContext context;
  const Module module;
  const Memory memory(4);
  CUdeviceptr address = memory.get();
  unsigned value = 5;
  std::array<void*, 2> parameters{&address, &value};
  CUlaunchConfig config{};
  config.gridDimX = config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = config.blockDimY = config.blockDimZ = 1;
  REQUIRE_CU(CU(cuLaunchKernelEx)(&config, module.function(), parameters.data(), nullptr));
  CHECK(value_at(memory.get()) == 5);
}

TEST_CASE("shapes that no device has are refused") {
  const PrimaryContext context;
  const Module module;
  const auto function = module.function();
  CUdeviceptr address = 0;
  unsigned value = 0;
  std::array<void*, 2> parameters{&address, &value};
  const auto shaped = [&](unsigned grid, unsigned block, unsigned shared) {
    return CU(cuLaunchKernel)(function, grid, 1, 1, block, 1, 1, shared, nullptr, parameters.data(), nullptr);
  };
  CHECK(shaped(0, 1, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(shaped(1, 0, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(shaped(1, 1025, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(shaped(1, 1, 100 << 10) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuLaunchKernel)(function, 1, 65536, 1, 1, 1, 1, 0, nullptr, parameters.data(), nullptr) ==
        CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("images and names that mean nothing are refused") {
  const PrimaryContext context;
  CUmodule none = nullptr;
  constexpr char garbage[] = "this is no image";
  const auto code = CU(cuModuleLoadData)(&none, garbage);
  CHECK((code == CUDA_ERROR_INVALID_IMAGE || code == CUDA_ERROR_INVALID_PTX));
  const Module module;
  CUfunction function = nullptr;
  CUdeviceptr address = 0;
  std::size_t bytes = 0;
  CHECK(CU(cuModuleGetFunction)(&function, module.get(), "no_such_kernel") == CUDA_ERROR_NOT_FOUND);
  CHECK(CU(cuModuleGetGlobal)(&address, &bytes, module.get(), "no_such_global") == CUDA_ERROR_NOT_FOUND);
}

TEST_CASE("a kernel of a library is launched in the current context") {
  const PrimaryContext context;
  CUlibrary library = nullptr;
  CUkernel kernel = nullptr;
  CUfunction function = nullptr;
  REQUIRE_CU(CU(cuLibraryLoadData)(&library, kernel_image, nullptr, nullptr, 0, nullptr, nullptr, 0));
  REQUIRE_CU(CU(cuLibraryGetKernel)(&kernel, library, "store_value"));
  REQUIRE_CU(CU(cuKernelGetFunction)(&function, kernel));
  const Memory memory(4);
  REQUIRE_CU(launch(function, memory.get(), 3, nullptr));
  CHECK(value_at(memory.get()) == 3);
  REQUIRE_CU(launch(reinterpret_cast<CUfunction>(kernel), memory.get(), 4, nullptr));
  CHECK(value_at(memory.get()) == 4);
  CHECK(CU(cuLibraryUnload)(library) == CUDA_SUCCESS);
}

TEST_CASE("a kernel writes to pinned memory of the host") {
  const PrimaryContext context;
  const Module module;
  const Pinned host(4);
  CUdeviceptr address = 0;
  REQUIRE_CU(CU(cuMemHostGetDevicePointer)(&address, host.get(), 0));
  REQUIRE_CU(launch(module.function(), address, 0x01010101, nullptr));
  REQUIRE_CU(CU(cuCtxSynchronize)());
  CHECK(host.get()[3] == 1);
}

TEST_CASE("functions tell what they need, and take more shared memory on request") {
  const PrimaryContext context;
  const Module module;
  const auto function = module.function();
  const auto attribute = [&](CUfunction_attribute name) {
    int value = -1;
    REQUIRE_CU(CU(cuFuncGetAttribute)(&value, name, function));
    return value;
  };
  CHECK(attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) == 1024);
  CHECK(attribute(CU_FUNC_ATTRIBUTE_NUM_REGS) > 0);
  REQUIRE_CU(CU(cuFuncSetAttribute)(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 64 << 10));
  CHECK(attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) == 64 << 10);
  CHECK(CU(cuFuncSetAttribute)(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 30) ==
        CUDA_ERROR_INVALID_VALUE);
  int blocks = 0;
  REQUIRE_CU(CU(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, function, 256, 0));
  CHECK(blocks >= 4);
}

TEST_CASE("a function isn't launched in a stream of another context") {
  const PrimaryContext context;
  const Module module;
  const auto function = module.function();
  const Memory memory(4);
  CUcontext other = nullptr;
  REQUIRE_CU(CU(cuCtxCreate)(&other, nullptr, 0, 0));
  const auto code = launch(function, memory.get(), 1, nullptr);
  REQUIRE_CU(CU(cuCtxDestroy)(other));
  CHECK((code == CUDA_ERROR_INVALID_HANDLE || code == CUDA_ERROR_INVALID_CONTEXT));
}
