// The settings of a fake machine.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "machine.hpp"

using namespace fake_gpu::testing;

TEST_CASE("the machine has the devices that its settings say") {
  const Machine machine("devices = 3\nmemory = 64MiB, 128MiB\nname = One, Other\n");
  Peer peer;
  CHECK(peer.ask(Op::count_devices).value == 3);
  CHECK(peer.ask(Op::total, 0).value == 64 * mebibyte);
  CHECK(peer.ask(Op::total, 2).value == 128 * mebibyte);
  CHECK(std::strcmp(reinterpret_cast<const char*>(peer.ask(Op::name, 1).payload), "Other") == 0);
}

TEST_CASE("CUDA_VISIBLE_DEVICES hides devices, and changes their order") {
  const Machine machine("devices = 3\nmemory = 64MiB, 128MiB, 256MiB\n");
  ::setenv("CUDA_VISIBLE_DEVICES", "2,0", 1);
  Peer peer;
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  CHECK(peer.ask(Op::count_devices).value == 2);
  CHECK(peer.ask(Op::total, 0).value == 256 * mebibyte);
  CHECK(peer.ask(Op::total, 1).value == 64 * mebibyte);
}

TEST_CASE("the environment goes before the file") {
  const Machine machine("devices = 3\n");
  ::setenv("MUSTER_FAKE_GPU_DEVICES", "2", 1);
  Peer peer;
  ::unsetenv("MUSTER_FAKE_GPU_DEVICES");
  CHECK(peer.ask(Op::count_devices).value == 2);
}

TEST_CASE("a machine without devices, and settings that mean nothing, fail cuInit") {
  {
    const Machine machine("devices = 0\n");
    Peer peer(-1);
    CHECK(peer.code(Op::init) == CUDA_ERROR_NO_DEVICE);
  }
  const Machine machine("device = 1\n");
  Peer peer(-1);
  CHECK(peer.code(Op::init) == CUDA_ERROR_UNKNOWN);
}

TEST_CASE("a device in exclusive mode belongs to one process at a time") {
  const Machine machine("devices = 2\ncompute_mode = exclusive, default\n");
  Peer second(-1);
  {
    Peer first;
    CHECK(second.code(Op::init, 0) == CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK(second.code(Op::init, 1) == 0);
    Peer third(1);
    first.kill();
  }
  Peer fourth(0);
  CHECK(fourth.code(Op::allocate_more) == 0);
}

TEST_CASE("a prohibited device gives no context") {
  const Machine machine("compute_mode = prohibited\n");
  Peer peer(-1);
  CHECK(peer.code(Op::init) == CUDA_ERROR_UNKNOWN);
}

TEST_CASE("a driver may have no read-only access") {
  const Machine machine("read_only_access = 0\n");
  Peer peer;
  REQUIRE(peer.code(Op::create, 2 * mebibyte) == 0);
  CHECK(peer.code(Op::set_access, CU_MEM_ACCESS_FLAGS_PROT_READ) == CUDA_ERROR_NOT_SUPPORTED);
  CHECK(peer.code(Op::unimport) == 0);
}

TEST_CASE("devices reach each other as the setting says") {
  const Machine machine("devices = 3\npeers = 1-0\n");
  Peer peer(0);
  REQUIRE(peer.code(Op::create, 2 * mebibyte) == 0);
  CHECK(peer.code(Op::set_access, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, 1) == 0);
  CHECK(peer.code(Op::set_access, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, 2) == CUDA_ERROR_INVALID_DEVICE);
  CHECK(peer.code(Op::unimport) == 0);
}

TEST_CASE("a descriptor that only looks like device memory isn't taken") {
  const Machine machine;
  Peer peer;
  const int fd = ::memfd_create("muster-fake-gpu.0.2097152.1.1", MFD_CLOEXEC);
  REQUIRE(::ftruncate(fd, 2 * mebibyte) == 0);
  CHECK(peer.ask({Op::import, 2 * mebibyte, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, {}}, fd).code ==
        CUDA_ERROR_INVALID_VALUE);
  ::close(fd);
}

TEST_CASE("FABRIC handles work where a setting allows them") {
  {
    const Machine machine;
    Peer peer;
    CHECK(peer.code(Op::create_fabric, 2 * mebibyte) == CUDA_ERROR_NOT_SUPPORTED);
    CHECK(contains(machine.books(), R"("memory": {})"));
  }
  const Machine machine("fabric = 1\n");
  Peer owner, user;
  const auto created = owner.ask(Op::create_fabric, 2 * mebibyte);
  REQUIRE(created.code == 0);
  Request request{Op::import_fabric, 2 * mebibyte, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, {}};
  std::memcpy(request.payload, created.payload, sizeof(request.payload));
  REQUIRE(user.ask(request).code == 0);
  REQUIRE(owner.code(Op::write, 1, 8) == 0);
  CHECK(user.ask(Op::read, 1).value == 8);
  CHECK(user.code(Op::unimport) == 0);
  CHECK(owner.code(Op::unimport) == 0);
}

TEST_CASE("memory that is shared with a process that doesn't see its device can't be imported") {
  const Machine machine("devices = 2\n");
  Peer owner(0);
  REQUIRE(owner.code(Op::allocate, 4 * mebibyte) == 0);
  auto request = Request{Op::open_memory, 0, 0, {}};
  const auto handle = owner.ask(Op::memory_handle);
  REQUIRE(handle.code == 0);
  std::memcpy(request.payload, handle.payload, sizeof(request.payload));
  ::setenv("CUDA_VISIBLE_DEVICES", "1", 1);
  Peer other(0);
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  CHECK(other.ask(request).code == CUDA_ERROR_MAP_FAILED);
}
