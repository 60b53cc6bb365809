// CUDA Driver API, 6.13 Memory Management: handles of memory and events for other processes.
#include <cstring>

#include "gpu.hpp"
#include "peer.hpp"

using namespace conformance;

namespace {

template <class T>
Request with(Op op, const T& handle) {
  Request request;
  request.op = op;
  static_assert(sizeof(handle) <= sizeof(request.payload));
  std::memcpy(request.payload, &handle, sizeof(handle));
  return request;
}

CUipcMemHandle handle_of(const Memory& memory) {
  CUipcMemHandle handle{};
  REQUIRE_CU(CU(cuIpcGetMemHandle)(&handle, memory.get()));
  return handle;
}

CUipcEventHandle handle_of(const Event& event) {
  CUipcEventHandle handle{};
  REQUIRE_CU(CU(cuIpcGetEventHandle)(&handle, event.get()));
  return handle;
}

}  // namespace

TEST_CASE("another process opens memory by its handle") {
  const PrimaryContext context;
  const Memory memory(4 * mebibyte);
  REQUIRE_CU(CU(cuMemsetD8)(memory.get(), 4, 4 * mebibyte));
  REQUIRE_CU(CU(cuCtxSynchronize)());
  Peer peer;
  REQUIRE(peer.ask(with(Op::open_memory, handle_of(memory))).code == 0);
  CHECK(peer.ask(Op::read, 4 * mebibyte - 1).value == 4);
  REQUIRE(peer.code(Op::write, 9, 7) == 0);
  CHECK(bytes_at(memory.get() + 9, 1)[0] == 7);
  CHECK(peer.code(Op::close_memory) == 0);
  CHECK(peer.code(Op::close_memory) == CUDA_ERROR_INVALID_VALUE);
  CHECK(bytes_at(memory.get() + 9, 1)[0] == 7);
}

TEST_CASE("a handle that is opened twice must be closed twice") {
  const PrimaryContext context;
  const Memory memory(4 * mebibyte);
  Peer peer;
  const auto request = with(Op::open_memory, handle_of(memory));
  REQUIRE(peer.ask(request).code == 0);
  REQUIRE(peer.ask(request).code == 0);
  REQUIRE(peer.code(Op::close_memory) == 0);
  CHECK(peer.code(Op::write, 0, 1) == 0);
  CHECK(peer.code(Op::close_memory) == 0);
}

TEST_CASE("memory can't be opened in the process that has it") {
  const PrimaryContext context;
  const Memory memory(4 * mebibyte);
  CUdeviceptr address = 0;
  CHECK(CU(cuIpcOpenMemHandle)(&address, handle_of(memory), CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) ==
        CUDA_ERROR_INVALID_CONTEXT);
}

TEST_CASE("the flag of cuIpcOpenMemHandle must be given") {
  const PrimaryContext context;
  const Memory memory(4 * mebibyte);
  CUdeviceptr address = 0;
  CHECK(CU(cuIpcOpenMemHandle)(&address, handle_of(memory), 0) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("handles of freed memory, and bytes that are no handle, open nothing") {
  const PrimaryContext context;
  Memory memory(4 * mebibyte);
  const auto handle = handle_of(memory);
  memory.free();
  Peer peer;
  CHECK(peer.ask(with(Op::open_memory, handle)).code != 0);
  CHECK(peer.ask(with(Op::open_memory, CUipcMemHandle{})).code != 0);
}

TEST_CASE("cuIpcGetMemHandle wants memory of a device") {
  const PrimaryContext context;
  int local = 0;
  CUipcMemHandle handle{};
  CHECK(CU(cuIpcGetMemHandle)(&handle, reinterpret_cast<CUdeviceptr>(&local)) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("memory that is freed and allocated again has another handle") {
  const PrimaryContext context;
  Memory first(4 * mebibyte);
  const auto before = handle_of(first);
  first.free();
  const Memory second(4 * mebibyte);
  const auto after = handle_of(second);
  CHECK(std::memcmp(&before, &after, sizeof(before)) != 0);
}

TEST_CASE("an event that another process has opened is one event") {
  const PrimaryContext context;
  const Stream stream;
  const Event event(CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS);
  Peer peer;
  REQUIRE(peer.ask(with(Op::open_event, handle_of(event))).code == 0);
  CHECK(peer.code(Op::query_event) == 0);
  Gate gate;
  gate.close(stream.get());
  REQUIRE_CU(CU(cuEventRecord)(event.get(), stream.get()));
  CHECK(peer.code(Op::query_event) == CUDA_ERROR_NOT_READY);
  gate.open();
  CHECK(peer.code(Op::query_event) == 0);
  REQUIRE(peer.code(Op::record_event) == 0);
  REQUIRE_CU(CU(cuStreamWaitEvent)(stream.get(), event.get(), 0));
  CHECK(CU(cuStreamSynchronize)(stream.get()) == CUDA_SUCCESS);
  CHECK(peer.code(Op::destroy_event) == 0);
  CHECK(CU(cuEventQuery)(event.get()) == CUDA_SUCCESS);
}

TEST_CASE("only events with both flags have handles") {
  const PrimaryContext context;
  const Event event;
  CUipcEventHandle handle{};
  CHECK(CU(cuIpcGetEventHandle)(&handle, event.get()) != CUDA_SUCCESS);
}
