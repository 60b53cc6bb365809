#include "nccl_peer.hpp"

#include <bit>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "gpu/nccl_config.hpp"
#include "nccl_functions.hpp"

namespace conformance {
namespace {

constexpr CUdeviceptr nowhere = 1 << 20;

struct State {
  ncclComm_t comm = nullptr;
  CUstream stream = nullptr;
  CUdeviceptr memory = 0;
  void* own = nullptr;  // by ncclMemAlloc
  void* registration = nullptr;
};

State& state() {
  static State only;
  return only;
}

musterd::gpu::nccl::Config config_of(bool blocking) {
  auto config = musterd::gpu::nccl::make_config(nccl_version());
  config.blocking = blocking ? 1 : 0;
  return config;
}

ncclConfig_t* given(musterd::gpu::nccl::Config& config) { return reinterpret_cast<ncclConfig_t*>(&config); }

ncclResult_t unique_id(Reply& reply) {
  ncclUniqueId id{};
  const auto code = NC(ncclGetUniqueId)(&id);
  std::memcpy(reply.payload, &id, sizeof(id));
  return code;
}

ncclResult_t init(const Request& request) {
  ncclUniqueId id{};
  std::memcpy(&id, request.payload, sizeof(id));
  auto config = config_of(false);
  return NC(ncclCommInitRankConfig)(&state().comm, static_cast<int>(request.a), id, static_cast<int>(request.b),
                                    given(config));
}

ncclResult_t init_odd(const Request& request) {
  ncclUniqueId id{};
  NC(ncclGetUniqueId)(&id);
  auto config = config_of(true);
  config.size += request.a;
  config.version += static_cast<unsigned>(request.b);
  return NC(ncclCommInitRankConfig)(&state().comm, 1, id, 0, given(config));
}

ncclResult_t async_error() {
  ncclResult_t error = ncclSuccess;
  const auto code = NC(ncclCommGetAsyncError)(state().comm, &error);
  return code != ncclSuccess ? code : error;
}

ncclResult_t settle() {
  auto code = async_error();
  for (; code == ncclInProgress; code = async_error()) std::this_thread::sleep_for(std::chrono::microseconds(200));
  return code;
}

void free_memory() {
  if (state().stream != nullptr) CU(cuStreamDestroy)(std::exchange(state().stream, nullptr));
  if (state().memory != 0) CU(cuMemFree)(std::exchange(state().memory, 0));
}

ncclResult_t reduce(CUdeviceptr address, std::size_t count, ncclComm_t comm) {
  auto* const values = reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
  return NC(ncclAllReduce)(values, values, count, ncclFloat32, ncclSum, comm,
                           reinterpret_cast<cudaStream_t>(state().stream));
}

void prepare() {
  constexpr std::size_t bytes_max = 1 << 20;
  if (state().stream == nullptr) CU(cuStreamCreate)(&state().stream, CU_STREAM_NON_BLOCKING);
  if (state().memory == 0) CU(cuMemAlloc)(&state().memory, bytes_max);
}

ncclResult_t send_or_receive(const Request& request) {
  prepare();
  auto* const value = reinterpret_cast<void*>(state().memory);  // NOLINT(performance-no-int-to-ptr)
  auto* const stream = reinterpret_cast<cudaStream_t>(state().stream);
  const int other = static_cast<int>(request.a);
  return request.op == Op::nccl_send ? NC(ncclSend)(value, 1, ncclFloat32, other, state().comm, stream)
                                     : NC(ncclRecv)(value, 1, ncclFloat32, other, state().comm, stream);
}

ncclResult_t add(const Request& request) {
  prepare();
  CU(cuMemsetD32Async)(state().memory, static_cast<unsigned>(request.b), request.a, state().stream);
  return reduce(state().memory, request.a, state().comm);
}

int wait(Reply& reply) {
  const auto code = CU(cuStreamSynchronize)(state().stream);
  if (code == CUDA_SUCCESS) CU(cuMemcpyDtoH)(&reply.value, state().memory, sizeof(float));
  return static_cast<int>(code);
}

ncclResult_t finalize() {
  const auto code = NC(ncclCommFinalize)(state().comm);
  return code == ncclInProgress ? settle() : code;
}

ncclResult_t shrink(const Request& request) {
  int excluded = static_cast<int>(request.a);
  ncclComm_t made = nullptr;
  auto code = NC(ncclCommShrink)(state().comm, &excluded, 1, &made, nullptr, static_cast<int>(request.b));
  if (code == ncclInProgress) code = settle();
  if (code == ncclSuccess) code = NC(ncclCommAbort)(std::exchange(state().comm, made));
  return code;
}

ncclResult_t two_alone() {
  std::vector<ncclComm_t> comms(2);
  auto code = NC(ncclCommInitAll)(comms.data(), 2, nullptr);
  CU(cuStreamCreate)(&state().stream, CU_STREAM_NON_BLOCKING);
  CU(cuMemAlloc)(&state().memory, sizeof(float));
  for (auto* comm : comms)
    if (code == ncclSuccess) code = reduce(state().memory, 1, comm);
  return code;
}

ncclResult_t get_memory() {
  constexpr std::size_t bytes = 4096;
  const auto code = NC(ncclMemAlloc)(&state().own, bytes);
  return code != ncclSuccess ? code : NC(ncclCommRegister)(state().comm, state().own, bytes, &state().registration);
}

ncclResult_t give_back() {
  const auto code = NC(ncclCommDeregister)(state().comm, state().registration);
  return code != ncclSuccess ? code : NC(ncclMemFree)(state().own);
}

}  // namespace

int answer_nccl(const Request& request, Reply& reply) {
  switch (request.op) {
    case Op::nccl_unique_id: return unique_id(reply);
    case Op::nccl_init: return init(request);
    case Op::nccl_init_odd: return init_odd(request);
    case Op::nccl_settle: return settle();
    case Op::nccl_state: return async_error();
    case Op::nccl_add: return add(request);
    case Op::nccl_add_nowhere: return reduce(nowhere, 4, state().comm);
    case Op::nccl_send:
    case Op::nccl_receive: return send_or_receive(request);
    case Op::nccl_is_idle: reply.value = CU(cuStreamQuery)(state().stream) == CUDA_SUCCESS ? 1 : 0; return 0;
    case Op::nccl_wait: return wait(reply);
    case Op::nccl_finalize: return finalize();
    case Op::nccl_destroy: free_memory(); return NC(ncclCommDestroy)(state().comm);
    case Op::nccl_abort: {
      const auto code = NC(ncclCommAbort)(state().comm);
      free_memory();
      return code;
    }
    case Op::nccl_shrink: return shrink(request);
    case Op::nccl_two_alone: return two_alone();
    case Op::nccl_memory: return get_memory();
    case Op::nccl_give_back: return give_back();
    case Op::nccl_last_error:
      std::strncpy(reinterpret_cast<char*>(reply.payload), NC(ncclGetLastError)(nullptr), sizeof(reply.payload) - 1);
      return 0;
    default: return ncclInternalError;
  }
}

}  // namespace conformance
