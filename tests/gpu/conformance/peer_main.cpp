// Does what the tests ask a second process to do. Its standard input is a socket.
#include <setjmp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <functional>
#include <map>

#include "cuda_api.hpp"
#include "kernel.hpp"
#include "nccl_peer.hpp"
#include "peer.hpp"

namespace {

using namespace conformance;

struct State {
  int device = 0;
  CUcontext context = nullptr;
  CUdeviceptr memory = 0;
  std::size_t bytes = 0;
  CUmemGenericAllocationHandle handle = 0;
  CUevent event = nullptr;
  pid_t child = 0;
};

CUmemAccessDesc access_of(const State& state, std::uint64_t flags) {
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = state.device;
  access.flags = static_cast<CUmemAccess_flags>(flags);
  return access;
}

/// Runs the calls until one fails.
CUresult all_of(std::initializer_list<std::function<CUresult()>> calls) {
  for (const auto& call : calls)
    if (const auto code = call(); code != CUDA_SUCCESS) return code;
  return CUDA_SUCCESS;
}

CUresult call_uninitialized(std::uint64_t number) {
  int value = 0;
  CUdeviceptr address = 0;
  CUcontext context = nullptr;
  CUmemGenericAllocationHandle handle = 0;
  CUmemAllocationProp properties{};
  const std::array<std::function<CUresult()>, 6> calls{
      [&] { return CU(cuDeviceGetCount)(&value); },
      [&] { return CU(cuDeviceGet)(&value, 0); },
      [&] { return CU(cuDevicePrimaryCtxRetain)(&context, 0); },
      [&] { return CU(cuMemAlloc)(&address, 1); },
      [&] { return CU(cuMemCreate)(&handle, 2 << 20, &properties, 0); },
      [&] { return CU(cuMemAddressReserve)(&address, 2 << 20, 0, 0, 0); },
  };
  return calls.at(number)();
}

CUresult init(State& state, int device) {
  state.device = device;
  return all_of({[&] { return CU(cuInit)(0); }, [&] { return CU(cuDevicePrimaryCtxRetain)(&state.context, device); },
                 [&] { return CU(cuCtxSetCurrent)(state.context); }});
}

CUresult map(State& state, std::size_t bytes, std::uint64_t flags) {
  state.bytes = bytes;
  const auto access = access_of(state, flags);
  return all_of({[&] { return CU(cuMemAddressReserve)(&state.memory, bytes, 0, 0, 0); },
                 [&] { return CU(cuMemMap)(state.memory, bytes, 0, state.handle, 0); },
                 [&] { return CU(cuMemSetAccess)(state.memory, bytes, &access, 1); }});
}

CUresult import(State& state, const Request& request, int fd) {
  auto* os_handle = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
  const auto code =
      CU(cuMemImportFromShareableHandle)(&state.handle, os_handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  ::close(fd);
  return code != CUDA_SUCCESS ? code : map(state, request.a, request.b);
}

CUresult create(State& state, std::size_t bytes, CUmemAllocationHandleType types = CU_MEM_HANDLE_TYPE_NONE) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = types;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = state.device;
  const auto code = CU(cuMemCreate)(&state.handle, bytes, &properties, 0);
  return code != CUDA_SUCCESS ? code : map(state, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
}

CUresult create_fabric(State& state, std::size_t bytes, Reply& reply) {
  return all_of(
      {[&] { return create(state, bytes, CU_MEM_HANDLE_TYPE_FABRIC); },
       [&] { return CU(cuMemExportToShareableHandle)(reply.payload, state.handle, CU_MEM_HANDLE_TYPE_FABRIC, 0); }});
}

CUresult import_fabric(State& state, const Request& request) {
  auto* handle = const_cast<unsigned char*>(request.payload);
  const auto code = CU(cuMemImportFromShareableHandle)(&state.handle, handle, CU_MEM_HANDLE_TYPE_FABRIC);
  return code != CUDA_SUCCESS ? code : map(state, request.a, request.b);
}

CUresult unimport(State& state) {
  return all_of({[&] { return CU(cuMemUnmap)(state.memory, state.bytes); },
                 [&] { return CU(cuMemAddressFree)(state.memory, state.bytes); },
                 [&] { return CU(cuMemRelease)(state.handle); }});
}

CUresult read(const State& state, std::uint64_t offset, std::uint64_t& value) {
  unsigned char byte = 0;
  const auto code = CU(cuMemcpyDtoH)(&byte, state.memory + offset, 1);
  value = byte;
  return code;
}

CUresult write(const State& state, std::uint64_t offset, std::uint64_t value) {
  const auto byte = static_cast<unsigned char>(value);
  return all_of(
      {[&] { return CU(cuMemcpyHtoD)(state.memory + offset, &byte, 1); }, [&] { return CU(cuCtxSynchronize)(); }});
}

CUresult allocate_more() {
  CUdeviceptr address = 0;
  return all_of({[&] { return CU(cuMemAlloc)(&address, 1); }, [&] { return CU(cuMemFree)(address); }});
}

CUresult reset(State& state) {
  return all_of({[&] { return CU(cuDevicePrimaryCtxReset)(state.device); },
                 [&] { return CU(cuDevicePrimaryCtxRetain)(&state.context, state.device); },
                 [&] { return CU(cuCtxSetCurrent)(state.context); }});
}

CUresult open_memory(State& state, const Request& request) {
  CUipcMemHandle handle;
  std::memcpy(&handle, request.payload, sizeof(handle));
  return CU(cuIpcOpenMemHandle)(&state.memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
}

CUresult memory_handle(const State& state, Reply& reply) {
  CUipcMemHandle handle{};
  const auto code = CU(cuIpcGetMemHandle)(&handle, state.memory);
  std::memcpy(reply.payload, &handle, sizeof(handle));
  return code;
}

CUresult call_in_stream() {
  CUresult code = CUDA_SUCCESS;
  const auto function = [](void* result) {
    CUdeviceptr address = 0;
    *static_cast<CUresult*>(result) = CU(cuMemAlloc)(&address, 1);
  };
  const auto called = all_of({[&] { return CU(cuLaunchHostFunc)(nullptr, function, &code); },
                              [&] { return CU(cuStreamSynchronize)(nullptr); }});
  return called != CUDA_SUCCESS ? called : code;
}

CUresult fork_and_stay(State& state) {
  int pipes[2];
  if (::pipe(pipes) != 0) return CUDA_ERROR_OPERATING_SYSTEM;
  state.child = ::fork();
  char byte = 0;
  if (state.child == 0) {
    static_cast<void>(!::write(pipes[1], &byte, 1));
    while (true) ::pause();
  }
  const bool runs = ::read(pipes[0], &byte, 1) == 1;
  ::close(pipes[0]);
  ::close(pipes[1]);
  return runs ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

CUresult end(const State& state) {
  if (state.child > 0) {
    ::kill(state.child, SIGKILL);
    ::waitpid(state.child, nullptr, 0);
  }
  return state.context == nullptr ? CUDA_SUCCESS : CU(cuDevicePrimaryCtxRelease)(state.device);
}

CUresult open_event(State& state, const Request& request) {
  CUipcEventHandle handle;
  std::memcpy(&handle, request.payload, sizeof(handle));
  return CU(cuIpcOpenEventHandle)(&state.event, handle);
}

CUresult record_event(const State& state) {
  return all_of(
      {[&] { return CU(cuEventRecord)(state.event, nullptr); }, [&] { return CU(cuEventSynchronize)(state.event); }});
}

CUresult launch(const State& state, const Request& request) {
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  CUdeviceptr address = state.memory + request.a;
  auto value = static_cast<unsigned>(request.b);
  void* parameters[] = {&address, &value};
  return all_of({[&] { return CU(cuModuleLoadData)(&module, kernel_image); },
                 [&] { return CU(cuModuleGetFunction)(&function, module, "store_value"); },
                 [&] { return CU(cuLaunchKernel)(function, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr); },
                 [&] { return CU(cuCtxSynchronize)(); }});
}

sigjmp_buf after_signal;

CUresult touch_on_host(const State& state, std::uint64_t& value) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int number) { ::siglongjmp(after_signal, number); };
  ::sigaction(SIGSEGV, &action, &before);
  value = static_cast<std::uint64_t>(sigsetjmp(after_signal, 1));
  if (value == 0) static_cast<void>(*reinterpret_cast<volatile char*>(state.memory));
  ::sigaction(SIGSEGV, &before, nullptr);
  return CUDA_SUCCESS;
}

CUresult fork_and_count() {
  const auto pid = ::fork();
  int number = 0;
  if (pid == 0) ::_exit(static_cast<int>(CU(cuDeviceGetCount)(&number)));
  int status = 0;
  ::waitpid(pid, &status, 0);
  return static_cast<CUresult>(WEXITSTATUS(status));
}

CUresult count_devices(std::uint64_t& value) {
  int number = 0;
  const auto code = CU(cuDeviceGetCount)(&number);
  value = static_cast<std::uint64_t>(number);
  return code;
}

CUresult answer(State& state, const Request& request, int fd, Reply& reply) {
  auto& value = reply.value;
  if (request.op > Op::end) return static_cast<CUresult>(answer_nccl(request, reply));
  switch (request.op) {
    case Op::uninitialized: return call_uninitialized(request.a);
    case Op::init: return init(state, static_cast<int>(request.a));
    case Op::import: return import(state, request, fd);
    case Op::unimport: return unimport(state);
    case Op::create: return create(state, request.a);
    case Op::allocate: return CU(cuMemAlloc)(&state.memory, request.a);
    case Op::open_memory: return open_memory(state, request);
    case Op::close_memory: return CU(cuIpcCloseMemHandle)(state.memory);
    case Op::read: return read(state, request.a, value);
    case Op::write: return write(state, request.a, request.b);
    case Op::set_access: {
      auto access = access_of(state, request.a);
      access.location.id += static_cast<int>(request.b);
      return CU(cuMemSetAccess)(state.memory, state.bytes, &access, 1);
    }
    case Op::count_devices: return count_devices(value);
    case Op::allocate_more: return allocate_more();
    case Op::reset: return reset(state);
    case Op::open_event: return open_event(state, request);
    case Op::record_event: return record_event(state);
    case Op::query_event: return CU(cuEventQuery)(state.event);
    case Op::destroy_event: return CU(cuEventDestroy)(state.event);
    case Op::fork_and_count: return fork_and_count();
    case Op::touch_on_host: return touch_on_host(state, value);
    case Op::launch: return launch(state, request);
    case Op::memory_handle: return memory_handle(state, reply);
    case Op::free: return CU(cuMemFree)(state.memory);
    case Op::create_fabric: return create_fabric(state, request.a, reply);
    case Op::import_fabric: return import_fabric(state, request);
    case Op::call_in_stream: return call_in_stream();
    case Op::fork_and_stay: return fork_and_stay(state);
    case Op::name:
      return CU(cuDeviceGetName)(reinterpret_cast<char*>(reply.payload), sizeof(reply.payload),
                                 static_cast<CUdevice>(request.a));
    case Op::total: return CU(cuDeviceTotalMem)(&reply.value, static_cast<CUdevice>(request.a));
    case Op::end: return end(state);
    default: break;
  }
  return CUDA_ERROR_UNKNOWN;
}

}  // namespace

int main() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // also when a call hangs
  State state;
  Request request;
  int fd = -1;
  while (receive_message(STDIN_FILENO, &request, sizeof(request), &fd)) {
    Reply reply;
    reply.code = answer(state, request, fd, reply);
    if (!send_message(STDIN_FILENO, &reply, sizeof(reply), -1) || request.op == Op::end) break;
  }
  return 0;
}
