// Failures on demand.
#include "machine.hpp"

using namespace fake_gpu::testing;

TEST_CASE("a call fails as often as a line says") {
  const Machine machine;
  Peer peer;
  machine.inject("call=cuMemAlloc error=CUDA_ERROR_OUT_OF_MEMORY nth=2 times=2\n");
  CHECK(peer.code(Op::allocate_more) == 0);
  CHECK(peer.code(Op::allocate_more) == CUDA_ERROR_OUT_OF_MEMORY);
  CHECK(peer.code(Op::allocate_more) == CUDA_ERROR_OUT_OF_MEMORY);
  CHECK(peer.code(Op::allocate_more) == 0);
  machine.inject("call=cuMemAlloc error=304 once\n");
  CHECK(peer.code(Op::allocate_more) == CUDA_ERROR_OPERATING_SYSTEM);
  CHECK(peer.code(Op::allocate_more) == 0);
  machine.inject("call=cuMem* out-of-memory\n");
  CHECK(peer.code(Op::allocate_more) == CUDA_ERROR_OUT_OF_MEMORY);
  CHECK(peer.code(Op::create, 2 * mebibyte) == CUDA_ERROR_OUT_OF_MEMORY);
  machine.inject("");
  CHECK(peer.code(Op::allocate_more) == 0);
}

TEST_CASE("once means once for all processes together") {
  const Machine machine;
  Peer one, two;
  machine.inject("call=cuMemAlloc error=CUDA_ERROR_OUT_OF_MEMORY once\n");
  CHECK(one.code(Op::allocate_more) == CUDA_ERROR_OUT_OF_MEMORY);
  CHECK(two.code(Op::allocate_more) == 0);
}

TEST_CASE("a line may be for one process or one device") {
  const Machine machine("devices = 2\n");
  Peer zero(0), one(1);
  machine.inject("call=cuMemAlloc error=999 pid=" + std::to_string(zero.pid()) + "\n");
  CHECK(zero.code(Op::allocate_more) == CUDA_ERROR_UNKNOWN);
  CHECK(one.code(Op::allocate_more) == 0);
  machine.inject("call=cuMemAlloc error=999 device=1\n");
  CHECK(zero.code(Op::allocate_more) == 0);
  CHECK(one.code(Op::allocate_more) == CUDA_ERROR_UNKNOWN);
}

TEST_CASE("a sticky error stays when its line is gone, in this context only") {
  const Machine machine;
  Peer one, two;
  machine.inject("call=cuMemAlloc sticky=CUDA_ERROR_ECC_UNCORRECTABLE once\n");
  CHECK(one.code(Op::allocate_more) == CUDA_ERROR_ECC_UNCORRECTABLE);
  machine.inject("");
  CHECK(one.code(Op::allocate_more) == CUDA_ERROR_ECC_UNCORRECTABLE);
  CHECK(two.code(Op::allocate_more) == 0);
  CHECK(one.code(Op::reset) == 0);
  CHECK(one.code(Op::allocate_more) == 0);
}

TEST_CASE("a device that is lost fails every call of everybody, and no other device") {
  const Machine machine("devices = 2\n");
  Peer one(0), two(0), other(1), late(-1);
  REQUIRE(one.code(Op::create, 2 * mebibyte) == 0);
  machine.inject("device=0 lost\n");
  CHECK(one.code(Op::allocate_more) == CUDA_ERROR_DEVICE_UNAVAILABLE);
  CHECK(one.code(Op::unimport) == CUDA_ERROR_DEVICE_UNAVAILABLE);
  CHECK(two.code(Op::allocate_more) == CUDA_ERROR_DEVICE_UNAVAILABLE);
  CHECK(late.code(Op::init, 0) == CUDA_ERROR_DEVICE_UNAVAILABLE);
  CHECK(other.code(Op::allocate_more) == 0);
  machine.inject("");
  CHECK(one.code(Op::allocate_more) == CUDA_ERROR_DEVICE_UNAVAILABLE);
  CHECK(one.code(Op::reset) == 0);
  CHECK(one.code(Op::allocate_more) == 0);
  one.kill();
}

TEST_CASE("a call hangs until the file changes") {
  const Machine machine;
  Peer peer, other;
  machine.inject("call=cuMemAlloc hang pid=" + std::to_string(peer.pid()) + "\n");
  peer.tell({Op::allocate_more, 0, 0, {}});
  CHECK(other.code(Op::allocate_more) == 0);
  CHECK_FALSE(peer.answers(200));
  machine.inject("");
  CHECK(peer.hear().code == 0);
}

TEST_CASE("a process that hangs can be killed, and leaves nothing") {
  const Machine machine;
  Peer peer;
  REQUIRE(peer.code(Op::create, 2 * mebibyte) == 0);
  machine.inject("call=cuMemFree hang\n");
  peer.tell({Op::allocate_more, 0, 0, {}});
  CHECK_FALSE(peer.answers(200));
  peer.kill();
  CHECK(machine.books_are_empty());
}

TEST_CASE("work stalls in its stream, and the call doesn't") {
  const Machine machine;
  Peer peer;
  REQUIRE(peer.code(Op::create, 2 * mebibyte) == 0);
  machine.inject("call=cuMemcpyHtoD stall\n");
  peer.tell({Op::write, 0, 3, {}});
  CHECK_FALSE(peer.answers(200));
  machine.inject("");
  CHECK(peer.hear().code == 0);
  CHECK(peer.ask(Op::read, 0).value == 3);
  CHECK(peer.code(Op::unimport) == 0);
}
