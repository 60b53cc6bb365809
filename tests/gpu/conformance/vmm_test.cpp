// CUDA Driver API, 6.14 Virtual Memory Management.
#include <sys/socket.h>
#include <unistd.h>

#include "gpu.hpp"
#include "peer.hpp"

using namespace conformance;

namespace {

constexpr auto none = CU_MEM_ACCESS_FLAGS_PROT_NONE;
constexpr auto read_write = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

}  // namespace

TEST_CASE("cuMemCreate takes multiples of the granularity, known properties, and no flags") {
  init();
  auto properties = properties_of();
  const auto bytes = granularity();
  CUmemGenericAllocationHandle handle = 0;
  CHECK(CU(cuMemCreate)(&handle, bytes / 2, &properties, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemCreate)(&handle, bytes + 4096, &properties, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemCreate)(&handle, 0, &properties, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemCreate)(&handle, bytes, &properties, 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemCreate)(nullptr, bytes, &properties, 0) == CUDA_ERROR_INVALID_VALUE);
  properties.type = CU_MEM_ALLOCATION_TYPE_INVALID;
  CHECK(CU(cuMemCreate)(&handle, bytes, &properties, 0) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("cuMemCreate refuses a device that isn't there") {
  init();
  const auto properties = properties_of(devices());
  CUmemGenericAllocationHandle handle = 0;
  CHECK(CU(cuMemCreate)(&handle, granularity(), &properties, 0) == CUDA_ERROR_INVALID_DEVICE);
}

TEST_CASE("a handle tells the properties that it was made with") {
  init();
  const Handle handle(granularity());
  CUmemAllocationProp properties{};
  REQUIRE_CU(CU(cuMemGetAllocationPropertiesFromHandle)(&properties, handle.get()));
  CHECK(properties.type == CU_MEM_ALLOCATION_TYPE_PINNED);
  CHECK(properties.location.type == CU_MEM_LOCATION_TYPE_DEVICE);
  CHECK(properties.location.id == 0);
  CHECK(properties.requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
}

TEST_CASE("cuMemAddressReserve takes whole pages, and an alignment that is a power of two") {
  init();
  CUdeviceptr address = 0;
  CHECK(CU(cuMemAddressReserve)(&address, 100, 0, 0, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemAddressReserve)(&address, 2 * mebibyte, 3 * mebibyte, 0, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemAddressReserve)(&address, 2 * mebibyte, 0, 0, 1) == CUDA_ERROR_INVALID_VALUE);
  const std::size_t alignment = 64 * mebibyte;
  REQUIRE_CU(CU(cuMemAddressReserve)(&address, 2 * mebibyte, alignment, 0, 0));
  CHECK(address % alignment == 0);
  CHECK(CU(cuMemAddressFree)(address, mebibyte) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemAddressFree)(address, 2 * mebibyte) == CUDA_SUCCESS);
}

TEST_CASE("cuMemMap maps into a reservation, once, from the start of the allocation") {
  init();
  const auto bytes = granularity();
  const Handle handle(bytes);
  Reservation addresses(4 * bytes);
  CHECK(CU(cuMemMap)(addresses.get(), bytes, bytes, handle.get(), 0) == CUDA_ERROR_NOT_SUPPORTED);
  CHECK(CU(cuMemMap)(addresses.get(), bytes, 0, handle.get(), 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemMap)(addresses.get(), bytes / 2, 0, handle.get(), 0) == CUDA_ERROR_NOT_SUPPORTED);
  CHECK(CU(cuMemMap)(addresses.get(), 2 * bytes, 0, handle.get(), 0) == CUDA_ERROR_NOT_SUPPORTED);
  CHECK(CU(cuMemMap)(addresses.get() + 4 * bytes, bytes, 0, handle.get(), 0) != CUDA_SUCCESS);
  addresses.map(handle, bytes);
  CHECK(CU(cuMemMap)(addresses.get(), bytes, 0, handle.get(), 0) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("mappings don't overlap") {
  init();
  const auto bytes = granularity();
  const Handle two(2 * bytes), one(bytes);
  Reservation addresses(4 * bytes);
  REQUIRE_CU(CU(cuMemMap)(addresses.get() + bytes, 2 * bytes, 0, two.get(), 0));
  CHECK(CU(cuMemMap)(addresses.get() + 2 * bytes, bytes, 0, one.get(), 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemMap)(addresses.get(), 2 * bytes, 0, two.get(), 0) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE_CU(CU(cuMemMap)(addresses.get(), bytes, 0, one.get(), 0));
  REQUIRE_CU(CU(cuMemUnmap)(addresses.get(), 3 * bytes));
}

TEST_CASE("addresses where memory is mapped can't be freed") {
  init();
  const auto bytes = granularity();
  const Handle handle(bytes);
  Reservation addresses(2 * bytes);
  addresses.map(handle, bytes);
  CHECK(CU(cuMemAddressFree)(addresses.get(), addresses.bytes()) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("cuMemUnmap takes whole mappings, and several at once") {
  init();
  const auto bytes = granularity();
  const Handle first(2 * bytes);
  const Handle second(bytes);
  Reservation addresses(4 * bytes);
  REQUIRE_CU(CU(cuMemMap)(addresses.get(), 2 * bytes, 0, first.get(), 0));
  CHECK(CU(cuMemUnmap)(addresses.get(), bytes) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemUnmap)(addresses.get() + bytes, bytes) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE_CU(CU(cuMemMap)(addresses.get() + 2 * bytes, bytes, 0, second.get(), 0));
  CHECK(CU(cuMemUnmap)(addresses.get(), 3 * bytes) == CUDA_SUCCESS);
}

TEST_CASE("the same allocation is the same memory wherever it is mapped") {
  const PrimaryContext context;
  const auto bytes = granularity();
  const Handle handle(bytes);
  Reservation one(bytes);
  Reservation two(bytes);
  one.map(handle, bytes);
  two.map(handle, bytes);
  REQUIRE_CU(set_access(one.get(), bytes, read_write));
  REQUIRE_CU(set_access(two.get(), bytes, read_write));
  REQUIRE_CU(CU(cuMemsetD8)(one.get(), 7, bytes));
  CHECK(bytes_at(two.get() + bytes - 1, 1)[0] == 7);
}

TEST_CASE("a mapping starts without rights, and tells the rights that it has") {
  init();
  const auto bytes = granularity();
  const Handle handle(bytes);
  Reservation addresses(bytes);
  addresses.map(handle, bytes);
  const CUmemLocation device{CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  unsigned long long flags = 99;
  REQUIRE_CU(CU(cuMemGetAccess)(&flags, &device, addresses.get()));
  CHECK(flags == none);
  REQUIRE_CU(set_access(addresses.get(), bytes, read_write));
  REQUIRE_CU(CU(cuMemGetAccess)(&flags, &device, addresses.get()));
  CHECK(flags == read_write);
  addresses.unmap();
  addresses.map(handle, bytes);
  REQUIRE_CU(CU(cuMemGetAccess)(&flags, &device, addresses.get()));
  CHECK(flags == none);
}

TEST_CASE("cuMemSetAccess takes whole mappings, known flags, and devices that are there") {
  const int number = devices();
  const auto bytes = granularity();
  const Handle handle(2 * bytes);
  Reservation addresses(4 * bytes);
  CHECK(set_access(addresses.get(), bytes, read_write) == CUDA_ERROR_INVALID_VALUE);
  addresses.map(handle, 2 * bytes);
  CHECK(set_access(addresses.get(), 4 * bytes, read_write) == CUDA_ERROR_INVALID_VALUE);
  CHECK(set_access(addresses.get(), 2 * bytes, static_cast<CUmemAccess_flags>(2)) == CUDA_ERROR_INVALID_VALUE);
  CHECK(set_access(addresses.get(), 2 * bytes, read_write, number) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("memory lives until its last handle and its last mapping are gone") {
  const PrimaryContext context;
  const auto bytes = 8 * granularity();
  const auto before = free_bytes();
  Handle handle(bytes);
  CHECK(free_bytes() == before - bytes);
  Reservation addresses(bytes);
  addresses.map(handle, bytes);
  REQUIRE_CU(set_access(addresses.get(), bytes, read_write));
  handle.release();
  CHECK(free_bytes() == before - bytes);
  REQUIRE_CU(CU(cuMemsetD8)(addresses.get(), 1, bytes));
  CHECK(bytes_at(addresses.get(), 1)[0] == 1);
  addresses.unmap();
  CHECK(free_bytes() == before);
}

TEST_CASE("an exported descriptor keeps the memory, also on its way through a socket") {
  const PrimaryContext context;
  const auto bytes = 8 * granularity();
  const auto before = free_bytes();
  Handle handle(bytes);
  const int fd = handle.export_fd();
  handle.release();
  CHECK(free_bytes() == before - bytes);
  int sockets[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) == 0);
  REQUIRE(send_message(sockets[0], "x", 1, fd));
  ::close(fd);
  CHECK(free_bytes() == before - bytes);
  ::close(sockets[0]);
  ::close(sockets[1]);
  CHECK(free_bytes() == before);
}

TEST_CASE("cuMemRetainAllocationHandle gives the handle of an address, and a reference to it") {
  init();
  const auto bytes = granularity();
  Handle handle(bytes);
  Reservation addresses(2 * bytes);
  CUmemGenericAllocationHandle retained = 0;
  auto* inside = reinterpret_cast<void*>(addresses.get() + 100);
  CHECK(CU(cuMemRetainAllocationHandle)(&retained, inside) == CUDA_ERROR_INVALID_VALUE);
  addresses.map(handle, bytes);
  REQUIRE_CU(CU(cuMemRetainAllocationHandle)(&retained, inside));
  CHECK(retained == handle.get());
  handle.release();
  CUmemAllocationProp properties{};
  CHECK(CU(cuMemGetAllocationPropertiesFromHandle)(&properties, retained) == CUDA_SUCCESS);
  CHECK(CU(cuMemRelease)(retained) == CUDA_SUCCESS);
}

TEST_CASE("memory can be exported only as what it was created for") {
  init();
  auto properties = properties_of();
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
  CUmemGenericAllocationHandle handle = 0;
  REQUIRE_CU(CU(cuMemCreate)(&handle, granularity(), &properties, 0));
  int fd = -1;
  CHECK(CU(cuMemExportToShareableHandle)(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) ==
        CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemRelease)(handle) == CUDA_SUCCESS);
  const Handle exportable(granularity());
  CHECK(CU(cuMemExportToShareableHandle)(&fd, exportable.get(), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 1) ==
        CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("a descriptor that isn't of device memory can't be imported") {
  init();
  int pipes[2];
  REQUIRE(::pipe(pipes) == 0);
  CUmemGenericAllocationHandle handle = 0;
  auto* os_handle = reinterpret_cast<void*>(std::intptr_t{pipes[0]});
  CHECK(CU(cuMemImportFromShareableHandle)(&handle, os_handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) !=
        CUDA_SUCCESS);
  ::close(pipes[0]);
  ::close(pipes[1]);
}

TEST_CASE("more than the device has is out of memory, and breaks nothing") {
  const PrimaryContext context;
  std::size_t free = 0, total = 0;
  REQUIRE_CU(CU(cuMemGetInfo)(&free, &total));
  const auto properties = properties_of();
  CUmemGenericAllocationHandle handle = 0;
  CHECK(CU(cuMemCreate)(&handle, (total / granularity() + 1) * granularity(), &properties, 0) ==
        CUDA_ERROR_OUT_OF_MEMORY);
  CUdeviceptr address = 0;
  CHECK(CU(cuMemAlloc)(&address, total + 1) == CUDA_ERROR_OUT_OF_MEMORY);
  CHECK(Memory(mebibyte).get() != 0);
}

TEST_CASE("memory of one device is given to another one", "[2-gpus]") {
  REQUIRE(devices() >= 2);
  int can = 0;
  REQUIRE_CU(CU(cuDeviceCanAccessPeer)(&can, 1, 0));
  if (can == 0) {
    WARN("these devices don't reach each other");
    return;
  }
  const auto bytes = granularity();
  const Handle handle(bytes, 0);
  Reservation addresses(bytes);
  addresses.map(handle, bytes);
  REQUIRE_CU(set_access(addresses.get(), bytes, read_write, 1));
  const PrimaryContext one(1);
  REQUIRE_CU(CU(cuMemsetD8)(addresses.get(), 3, bytes));
  CHECK(bytes_at(addresses.get() + 5, 1)[0] == 3);
}
