// The part of NCCL's binary interface that we call, in our own declarations: the product is built without nccl.h.
// tests/gpu/nccl_abi_test.cpp compares them with NVIDIA's header, for each version that it is given.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "gpu/cuda.hpp"

namespace musterd::gpu::nccl {

/// What a call returned (ncclResult_t).
enum class Status : int {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
  timeout = 8,  ///< since 2.30
};

using Communicator = struct CommunicatorTag*;
using cuda::Stream;

struct UniqueId {
  std::array<char, 128> bytes;
};

enum class DataType : int {
  int8 = 0,
  uint8 = 1,
  int32 = 2,
  uint32 = 3,
  int64 = 4,
  uint64 = 5,
  float16 = 6,
  float32 = 7,
  float64 = 8,
  bfloat16 = 9,
  float8_e4m3 = 10,  ///< since 2.24
  float8_e5m2 = 11,  ///< since 2.24
};

/// Larger values are ops that ncclRedOpCreatePreMulSum made.
enum class ReduceOp : int { sum = 0, prod = 1, max = 2, min = 3, avg = 4 };

enum class ScalarResidence : int { device = 0, host_immediate = 1 };

/// What ncclCommMemStats tells, in bytes; `suspended` is 0 or 1.
enum class MemoryStat : int { can_suspend = 0, suspended = 1, persistent = 2, total = 3 };

inline constexpr int split_no_color = -1;
inline constexpr int shrink_default = 0;
inline constexpr int shrink_abort = 1;
inline constexpr int revoke_default = 0;

/// ncclConfig_t as its newest version has it. NCCL only ever adds fields at the end; which of them a library knows, and
/// which size it expects, is in nccl_config.hpp. Never make one by hand: make_config() does.
struct Config {
  std::size_t size;
  unsigned magic;
  unsigned version;
  int blocking;
  int cga_cluster_size;
  int min_ctas;
  int max_ctas;
  const char* net_name;
  int split_share;
  int traffic_class;
  const char* comm_name;
  int collnet_enable;
  int cta_policy;
  int shrink_share;
  int nvls_ctas;
  int channels_per_net_peer;
  int nvlink_centric_sched;
  int graph_usage_mode;
  int rma_contexts;
  int max_p2p_peers;
  int graph_stream_ordering;
  int launch_order_implicit;
  int rma_signals;
  int rma_eager_init;
  int host_cft_mode;
  int nvls_host_mode;
};

}  // namespace musterd::gpu::nccl
