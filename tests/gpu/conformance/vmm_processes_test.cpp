// CUDA Driver API, 6.14 Virtual Memory Management, between processes; and what rights mean.
#include <signal.h>
#include <unistd.h>

#include "gpu.hpp"
#include "peer.hpp"

using namespace conformance;

namespace {

constexpr auto none = CU_MEM_ACCESS_FLAGS_PROT_NONE;
constexpr auto read_only = CU_MEM_ACCESS_FLAGS_PROT_READ;
constexpr auto read_write = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

}  // namespace

TEST_CASE("two processes share memory by a descriptor") {
  const PrimaryContext context;
  const auto bytes = granularity();
  const Handle handle(bytes);
  Reservation addresses(bytes);
  addresses.map(handle, bytes);
  REQUIRE_CU(set_access(addresses.get(), bytes, read_write));
  REQUIRE_CU(CU(cuMemsetD8)(addresses.get(), 3, bytes));
  REQUIRE_CU(CU(cuCtxSynchronize)());
  Peer peer;
  const int fd = handle.export_fd();
  REQUIRE(peer.ask({Op::import, bytes, read_write, {}}, fd).code == 0);
  ::close(fd);
  CHECK(peer.ask(Op::read, bytes - 1).value == 3);
  REQUIRE(peer.code(Op::write, 17, 4) == 0);
  CHECK(bytes_at(addresses.get() + 17, 1)[0] == 4);
  CHECK(peer.code(Op::unimport) == 0);
}

TEST_CASE("an importer keeps memory that its maker has given up, and a killed one gives it back") {
  const PrimaryContext context;
  const auto bytes = 8 * granularity();
  const auto before = free_bytes();
  Peer peer;
  const auto with_peer = free_bytes();  // its context takes memory on hardware
  Handle handle(bytes);
  const int fd = handle.export_fd();
  REQUIRE(peer.ask({Op::import, bytes, read_write, {}}, fd).code == 0);
  ::close(fd);
  handle.release();
  CHECK(free_bytes() == with_peer - bytes);
  REQUIRE(peer.code(Op::write, 0, 1) == 0);
  peer.kill();
  CHECK(free_bytes() == before);
}

TEST_CASE("memory of a killed process is free again") {
  const PrimaryContext context;
  const auto before = free_bytes();
  Peer peer;
  const auto with_peer = free_bytes();
  const auto bytes = 8 * granularity();
  REQUIRE(peer.code(Op::create, bytes) == 0);
  CHECK(free_bytes() == with_peer - bytes);
  peer.kill();
  CHECK(free_bytes() == before);
}

TEST_CASE("who writes without the right breaks its context, and nobody else's") {
  const PrimaryContext context;
  const auto bytes = granularity();
  Peer peer;
  REQUIRE(peer.code(Op::create, bytes) == 0);
  REQUIRE(peer.code(Op::write, 0, 5) == 0);
  const auto narrowed = peer.code(Op::set_access, read_only);
  if (narrowed == CUDA_ERROR_NOT_SUPPORTED) {
    WARN("this driver has no read-only access to device memory");
    return;
  }
  REQUIRE(narrowed == 0);
  CHECK(peer.ask(Op::read, 0).value == 5);
  CHECK(peer.code(Op::launch, 0, 6) == CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(peer.code(Op::allocate_more) == CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(peer.code(Op::read, 0) == CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(Memory(mebibyte).get() != 0);
  peer.kill();
}

TEST_CASE("who reads without any right breaks its context") {
  const auto bytes = [] {
    init();
    return granularity();
  }();
  Peer peer;
  REQUIRE(peer.code(Op::create, bytes) == 0);
  REQUIRE(peer.code(Op::set_access, none) == 0);
  CHECK(peer.code(Op::launch, 0, 6) == CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(peer.code(Op::allocate_more) == CUDA_ERROR_ILLEGAL_ADDRESS);
  peer.kill();
}

TEST_CASE("host code can't touch device memory") {
  Peer peer;
  REQUIRE(peer.code(Op::create, 2 * mebibyte) == 0);
  CHECK(peer.ask(Op::touch_on_host).value == SIGSEGV);
  CHECK(peer.code(Op::unimport) == 0);
}

TEST_CASE("what another process has can't be had") {
  const PrimaryContext context;
  Peer peer;
  std::size_t free = 0, total = 0;
  REQUIRE_CU(CU(cuMemGetInfo)(&free, &total));
  const auto most = free / 4 * 3 / granularity() * granularity();
  REQUIRE(peer.code(Op::create, most) == 0);
  const auto properties = properties_of();
  CUmemGenericAllocationHandle handle = 0;
  CHECK(CU(cuMemCreate)(&handle, most, &properties, 0) == CUDA_ERROR_OUT_OF_MEMORY);
  peer.kill();
  CHECK(CU(cuMemCreate)(&handle, most, &properties, 0) == CUDA_SUCCESS);
  CHECK(CU(cuMemRelease)(handle) == CUDA_SUCCESS);
}

TEST_CASE("the child of a fork keeps no memory") {
  const PrimaryContext context;
  Peer peer;
  const auto before = free_bytes();
  const auto bytes = 8 * granularity();
  REQUIRE(peer.code(Op::create, bytes) == 0);
  REQUIRE(peer.code(Op::fork_and_stay) == 0);
  CHECK(free_bytes() == before - bytes);
  REQUIRE(peer.code(Op::unimport) == 0);
  CHECK(free_bytes() == before);
}
