// CUDA Driver API, 6.13 Memory Management, 6.15 Stream Ordered Memory Allocator, 6.17 Unified Addressing.
#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "gpu.hpp"

using namespace conformance;

namespace {

template <class T>
T attribute(CUpointer_attribute name, CUdeviceptr address) {
  T value{};
  REQUIRE_CU(CU(cuPointerGetAttribute)(&value, name, address));
  return value;
}

CUdeviceptr as_device(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace

TEST_CASE("cuMemAlloc takes memory, and cuMemFree gives it back") {
  const PrimaryContext context;
  const auto before = free_bytes();
  {
    const Memory memory(16 * mebibyte);
    CHECK(free_bytes() <= before - 16 * mebibyte);
    CHECK(memory.get() % 256 == 0);
  }
  CHECK(free_bytes() == before);
  CUdeviceptr address = 0;
  CHECK(CU(cuMemAlloc)(&address, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemAlloc)(nullptr, 1) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("cuMemFree takes what cuMemAlloc gave, once") {
  const PrimaryContext context;
  Memory memory(4096);
  const auto address = memory.get();
  CHECK(CU(cuMemFree)(address + 256) == CUDA_ERROR_INVALID_VALUE);
  memory.free();
  CHECK(CU(cuMemFree)(address) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("freed memory can't be copied from") {
  const PrimaryContext context;
  Memory memory(4 * mebibyte);
  const auto address = memory.get();
  memory.free();
  unsigned char byte = 0;
  CHECK(CU(cuMemcpyDtoH)(&byte, address, 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemsetD8)(address, 0, 1) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("cuMemGetAddressRange finds the allocation around an address") {
  const PrimaryContext context;
  const Memory memory(5 * mebibyte);
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  REQUIRE_CU(CU(cuMemGetAddressRange)(&base, &bytes, memory.get() + 12345));
  CHECK(base == memory.get());
  CHECK(bytes == 5 * mebibyte);
  CHECK(CU(cuMemGetAddressRange)(nullptr, nullptr, memory.get()) == CUDA_SUCCESS);
  int local = 0;
  CHECK(CU(cuMemGetAddressRange)(&base, &bytes, as_device(&local)) == CUDA_ERROR_NOT_FOUND);
}

TEST_CASE("memory of a pool ends when its stream comes there") {
  const PrimaryContext context;
  const Stream stream;
  const Pinned host(1);
  CUdeviceptr address = 0;
  REQUIRE_CU(CU(cuMemAllocAsync)(&address, mebibyte, stream.get()));
  REQUIRE_CU(CU(cuMemsetD8Async)(address, 6, mebibyte, stream.get()));
  REQUIRE_CU(CU(cuMemcpyDtoHAsync)(host.get(), address + mebibyte - 1, 1, stream.get()));
  REQUIRE_CU(CU(cuMemFreeAsync)(address, stream.get()));
  REQUIRE_CU(CU(cuStreamSynchronize)(stream.get()));
  CHECK(*host.get() == 6);
  CHECK(CU(cuMemFreeAsync)(address, stream.get()) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("a pool counts what is used, and cuMemFree takes its memory, too") {
  const PrimaryContext context;
  CUmemoryPool pool = nullptr;
  REQUIRE_CU(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
  const auto used = [&] {
    cuuint64_t bytes = 0;
    REQUIRE_CU(CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &bytes));
    return bytes;
  };
  const auto before = used();
  CUdeviceptr address = 0;
  REQUIRE_CU(CU(cuMemAllocAsync)(&address, mebibyte, nullptr));
  REQUIRE_CU(CU(cuMemFreeAsync)(address, nullptr));
  REQUIRE_CU(CU(cuStreamSynchronize)(nullptr));
  CHECK(used() == before);
  REQUIRE_CU(CU(cuMemAllocAsync)(&address, mebibyte, nullptr));
  CHECK(used() >= before + mebibyte);
  REQUIRE_CU(CU(cuStreamSynchronize)(nullptr));
  CHECK(CU(cuMemFree)(address) == CUDA_SUCCESS);  // when the pool counts that is not said
  cuuint64_t threshold = 12345, told = 0;
  REQUIRE_CU(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  REQUIRE_CU(CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &told));
  CHECK(told == threshold);
}

TEST_CASE("a pointer of cuMemAlloc tells where it is from") {
  const PrimaryContext context;
  const Memory memory(mebibyte);
  const auto inside = memory.get() + 100;
  CHECK(attribute<unsigned>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, inside) == CU_MEMORYTYPE_DEVICE);
  CHECK(attribute<int>(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, inside) == 0);
  CHECK(attribute<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT, inside) == context.get());
  CHECK(attribute<int>(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, inside) == 1);
  CHECK(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, inside) == memory.get());
  CHECK(attribute<std::size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE, inside) == mebibyte);
  CHECK(attribute<bool>(CU_POINTER_ATTRIBUTE_MAPPED, inside));
  CHECK(attribute<CUmemoryPool>(CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, inside) == nullptr);
  const Memory other(mebibyte);
  CHECK(attribute<unsigned long long>(CU_POINTER_ATTRIBUTE_BUFFER_ID, inside) !=
        attribute<unsigned long long>(CU_POINTER_ATTRIBUTE_BUFFER_ID, other.get()));
}

TEST_CASE("memory by cuMemCreate and of pools has no legacy IPC handle, and says so") {
  const PrimaryContext context;
  const auto bytes = granularity();
  const Handle handle(bytes);
  Reservation addresses(bytes);
  bool is_mapped = false;
  CHECK(CU(cuPointerGetAttribute)(&is_mapped, CU_POINTER_ATTRIBUTE_MAPPED, addresses.get()) ==
        CUDA_ERROR_INVALID_VALUE);
  unsigned type = 0;
  CHECK(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, addresses.get()) ==
        CUDA_ERROR_INVALID_VALUE);
  addresses.map(handle, bytes);
  CHECK(attribute<bool>(CU_POINTER_ATTRIBUTE_MAPPED, addresses.get()));
  CHECK(attribute<int>(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, addresses.get()) == 0);
  CHECK(attribute<unsigned>(CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES, addresses.get()) ==
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  CUipcMemHandle ipc{};
  CHECK(CU(cuIpcGetMemHandle)(&ipc, addresses.get()) == CUDA_ERROR_INVALID_VALUE);
  CUdeviceptr pooled = 0;
  CUmemoryPool pool = nullptr;
  REQUIRE_CU(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
  REQUIRE_CU(CU(cuMemAllocAsync)(&pooled, mebibyte, nullptr));
  REQUIRE_CU(CU(cuStreamSynchronize)(nullptr));
  CHECK(attribute<int>(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pooled) == 0);
  CHECK(attribute<CUmemoryPool>(CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pooled) == pool);
  CHECK(CU(cuIpcGetMemHandle)(&ipc, pooled) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemFree)(pooled) == CUDA_SUCCESS);
}

TEST_CASE("pinned memory is of the host, and other memory is unknown") {
  const PrimaryContext context;
  const Pinned pinned(4096);
  CHECK(attribute<unsigned>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, as_device(pinned.get())) == CU_MEMORYTYPE_HOST);
  int local = 0;
  unsigned type = 0;
  CHECK(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, as_device(&local)) ==
        CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("cuPointerGetAttributes gives nulls for what it doesn't know") {
  const PrimaryContext context;
  int local = 0;
  CUcontext owner = context.get();
  unsigned type = 99;
  std::array names{CU_POINTER_ATTRIBUTE_CONTEXT, CU_POINTER_ATTRIBUTE_MEMORY_TYPE};
  std::array<void*, 2> values{&owner, &type};
  REQUIRE_CU(CU(cuPointerGetAttributes)(2, names.data(), values.data(), as_device(&local)));
  CHECK(owner == nullptr);
  CHECK(type == 0);
  const Memory memory(4096);
  REQUIRE_CU(CU(cuPointerGetAttributes)(2, names.data(), values.data(), memory.get()));
  CHECK(owner == context.get());
  CHECK(type == CU_MEMORYTYPE_DEVICE);
}

TEST_CASE("memory of the host is registered once, and unregistered by its base") {
  const PrimaryContext context;
  std::vector<unsigned char> memory(1 << 20);
  CHECK(CU(cuMemHostUnregister)(memory.data()) == CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  CHECK(CU(cuMemHostRegister)(memory.data(), 0, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemHostRegister)(memory.data(), memory.size(), 0x100) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE_CU(CU(cuMemHostRegister)(memory.data(), memory.size(), CU_MEMHOSTREGISTER_PORTABLE));
  CHECK(CU(cuMemHostRegister)(memory.data(), memory.size(), 0) == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  CUdeviceptr address = 0;
  REQUIRE_CU(CU(cuMemHostGetDevicePointer)(&address, memory.data(), 0));
  REQUIRE_CU(CU(cuMemsetD8)(address, 8, memory.size()));
  CHECK(memory.back() == 8);
  CHECK(CU(cuMemFreeHost)(memory.data()) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE_CU(CU(cuMemHostUnregister)(memory.data()));
  CHECK(CU(cuMemHostUnregister)(memory.data()) == CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

TEST_CASE("a copy over memory of which only a part is registered is refused") {
  const PrimaryContext context;
  std::vector<unsigned char> memory(2 * mebibyte);
  const Memory device(memory.size());
  REQUIRE_CU(CU(cuMemHostRegister)(memory.data(), mebibyte, 0));
  CHECK(CU(cuMemcpyHtoD)(device.get(), memory.data(), memory.size()) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemcpyHtoD)(device.get(), memory.data(), mebibyte) == CUDA_SUCCESS);
  REQUIRE_CU(CU(cuMemHostUnregister)(memory.data()));
  CHECK(CU(cuMemcpyHtoD)(device.get(), memory.data(), memory.size()) == CUDA_SUCCESS);
}

TEST_CASE("memory that is mapped for reading is registered for reading") {
  const PrimaryContext context;
  int supported = 0;
  REQUIRE_CU(CU(cuDeviceGetAttribute)(&supported, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 0));
  const int fd = ::memfd_create("host", MFD_CLOEXEC);
  REQUIRE(::ftruncate(fd, mebibyte) == 0);
  REQUIRE(::pwrite(fd, "\7", 1, mebibyte - 1) == 1);
  void* memory = ::mmap(nullptr, mebibyte, PROT_READ, MAP_SHARED, fd, 0);
  REQUIRE(memory != MAP_FAILED);
  CHECK(CU(cuMemHostRegister)(memory, mebibyte, 0) == CUDA_ERROR_INVALID_VALUE);
  if (supported == 1) {
    REQUIRE_CU(CU(cuMemHostRegister)(memory, mebibyte, CU_MEMHOSTREGISTER_READ_ONLY));
    const Memory device(mebibyte);
    REQUIRE_CU(CU(cuMemcpyHtoD)(device.get(), memory, mebibyte));
    CHECK(bytes_at(device.get() + mebibyte - 1, 1)[0] == 7);
    REQUIRE_CU(CU(cuMemHostUnregister)(memory));
  }
  ::munmap(memory, mebibyte);
  ::close(fd);
}

TEST_CASE("pinned memory tells its flags") {
  const PrimaryContext context;
  const Pinned pinned(4096);
  unsigned flags = 0;
  REQUIRE_CU(CU(cuMemHostGetFlags)(&flags, pinned.get()));
  CHECK((flags & CU_MEMHOSTALLOC_PORTABLE) != 0);
  void* pointer = nullptr;
  CHECK(CU(cuMemHostAlloc)(&pointer, 4096, 0x100) == CUDA_ERROR_INVALID_VALUE);
  CUdeviceptr address = 0;
  CHECK(CU(cuMemHostGetDevicePointer)(&address, pinned.get(), 1) == CUDA_ERROR_INVALID_VALUE);
}
