// Compares our declarations of NCCL with the nccl.h that the build found, when this is compiled: nothing runs. Works
// with every version since nccl_version_min; `abi_versions` tries several.
#include <limits.h>
#include <stdint.h>
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "gpu/nccl.hpp"
#include "gpu/nccl_config.hpp"
#include "same_abi.hpp"

// A call that this header doesn't have yet is found here instead.
struct MissingCall {};
#define MUSTER_MISSING(member, name, since, ...) inline constexpr MissingCall name{};
MUSTER_NCCL_CALLS(MUSTER_MISSING)

namespace real {
// The headers that it includes are included already, so all that it declares is in this namespace.
#include <nccl.h>
}  // namespace real

namespace musterd::gpu::test {
/// Our structure is that of the newest version, and only pointers to it are passed. Its fields are compared below.
template <>
struct SameAbi<nccl::Config, real::ncclConfig_t> {
  static consteval bool value() { return true; }
};
}  // namespace musterd::gpu::test

namespace musterd::gpu::nccl {
namespace {

using real::ncclConfig_t;
using test::same_abi;
constexpr int version = NCCL_VERSION_CODE;
static_assert(version >= nccl_version_min);

// ---- calls ----

template <class Ours, class Theirs>
consteval bool same_call(int since) {
  if constexpr (std::is_same_v<Theirs, const MissingCall>) return version < since;
  else return version >= since && same_abi<Ours, Theirs>;
}

}  // namespace
}  // namespace musterd::gpu::nccl

namespace real {
// In here, a name of NCCL's is that of the header, or else the missing call.
using musterd::gpu::nccl::same_call;
namespace ours {
using namespace musterd::gpu::nccl;
#define MUSTER_CHECK(member, name, since, ...) \
  static_assert(same_call<__VA_ARGS__, decltype(name)>(since), #name " differs, or is of another version");
MUSTER_NCCL_CALLS(MUSTER_CHECK)
}  // namespace ours
}  // namespace real

namespace musterd::gpu::nccl {
namespace {

// ---- values ----

#define MUSTER_SAME(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #theirs);

MUSTER_SAME(Status::success, real::ncclSuccess)
MUSTER_SAME(Status::unhandled_cuda_error, real::ncclUnhandledCudaError)
MUSTER_SAME(Status::system_error, real::ncclSystemError)
MUSTER_SAME(Status::internal_error, real::ncclInternalError)
MUSTER_SAME(Status::invalid_argument, real::ncclInvalidArgument)
MUSTER_SAME(Status::invalid_usage, real::ncclInvalidUsage)
MUSTER_SAME(Status::remote_error, real::ncclRemoteError)
MUSTER_SAME(Status::in_progress, real::ncclInProgress)
#if NCCL_VERSION_CODE >= 23000
MUSTER_SAME(Status::timeout, real::ncclTimeout)
#endif

MUSTER_SAME(DataType::int8, real::ncclInt8)
MUSTER_SAME(DataType::uint8, real::ncclUint8)
MUSTER_SAME(DataType::int32, real::ncclInt32)
MUSTER_SAME(DataType::uint32, real::ncclUint32)
MUSTER_SAME(DataType::int64, real::ncclInt64)
MUSTER_SAME(DataType::uint64, real::ncclUint64)
MUSTER_SAME(DataType::float16, real::ncclFloat16)
MUSTER_SAME(DataType::float32, real::ncclFloat32)
MUSTER_SAME(DataType::float64, real::ncclFloat64)
MUSTER_SAME(DataType::bfloat16, real::ncclBfloat16)
#if NCCL_VERSION_CODE >= 22400
MUSTER_SAME(DataType::float8_e4m3, real::ncclFloat8e4m3)
MUSTER_SAME(DataType::float8_e5m2, real::ncclFloat8e5m2)
#endif

MUSTER_SAME(ReduceOp::sum, real::ncclSum)
MUSTER_SAME(ReduceOp::prod, real::ncclProd)
MUSTER_SAME(ReduceOp::max, real::ncclMax)
MUSTER_SAME(ReduceOp::min, real::ncclMin)
MUSTER_SAME(ReduceOp::avg, real::ncclAvg)
MUSTER_SAME(ScalarResidence::device, real::ncclScalarDevice)
MUSTER_SAME(ScalarResidence::host_immediate, real::ncclScalarHostImmediate)
MUSTER_SAME(split_no_color, NCCL_SPLIT_NOCOLOR)
#if NCCL_VERSION_CODE >= 22700
MUSTER_SAME(shrink_default, NCCL_SHRINK_DEFAULT)
MUSTER_SAME(shrink_abort, NCCL_SHRINK_ABORT)
#endif
#if NCCL_VERSION_CODE >= 22807
MUSTER_SAME(revoke_default, NCCL_REVOKE_DEFAULT)
#endif
#if NCCL_VERSION_CODE >= 22907
MUSTER_SAME(MemoryStat::can_suspend, real::ncclStatGpuMemSuspend)
MUSTER_SAME(MemoryStat::suspended, real::ncclStatGpuMemSuspended)
MUSTER_SAME(MemoryStat::persistent, real::ncclStatGpuMemPersist)
MUSTER_SAME(MemoryStat::total, real::ncclStatGpuMemTotal)
#endif

// ---- layouts ----

static_assert(same_abi<UniqueId, real::ncclUniqueId>);
static_assert(sizeof(Config) >= sizeof(real::ncclConfig_t), "ncclConfig_t has new fields: add them, and a layout");

#define MUSTER_SAME_FIELD(ours, theirs)                                           \
  static_assert(offsetof(Config, ours) == offsetof(real::ncclConfig_t, theirs) && \
                    sizeof(Config::ours) == sizeof(real::ncclConfig_t::theirs),   \
                "ncclConfig_t." #theirs);

MUSTER_SAME_FIELD(size, size)
MUSTER_SAME_FIELD(magic, magic)
MUSTER_SAME_FIELD(version, version)
MUSTER_SAME_FIELD(blocking, blocking)
MUSTER_SAME_FIELD(cga_cluster_size, cgaClusterSize)
MUSTER_SAME_FIELD(min_ctas, minCTAs)
MUSTER_SAME_FIELD(max_ctas, maxCTAs)
MUSTER_SAME_FIELD(net_name, netName)
MUSTER_SAME_FIELD(split_share, splitShare)
#if NCCL_VERSION_CODE >= 22600
MUSTER_SAME_FIELD(traffic_class, trafficClass)
#endif
#if NCCL_VERSION_CODE >= 22700
MUSTER_SAME_FIELD(comm_name, commName)
MUSTER_SAME_FIELD(collnet_enable, collnetEnable)
MUSTER_SAME_FIELD(cta_policy, CTAPolicy)
MUSTER_SAME_FIELD(shrink_share, shrinkShare)
MUSTER_SAME_FIELD(nvls_ctas, nvlsCTAs)
#endif
#if NCCL_VERSION_CODE >= 22800
MUSTER_SAME_FIELD(channels_per_net_peer, nChannelsPerNetPeer)
MUSTER_SAME_FIELD(nvlink_centric_sched, nvlinkCentricSched)
#endif
#if NCCL_VERSION_CODE >= 22900
MUSTER_SAME_FIELD(graph_usage_mode, graphUsageMode)
MUSTER_SAME_FIELD(rma_contexts, numRmaCtx)
#endif
#if NCCL_VERSION_CODE >= 23000
MUSTER_SAME_FIELD(max_p2p_peers, maxP2pPeers)
#endif
#if NCCL_VERSION_CODE >= 23005
MUSTER_SAME_FIELD(graph_stream_ordering, graphStreamOrdering)
#endif
#if NCCL_VERSION_CODE >= 23100
MUSTER_SAME_FIELD(launch_order_implicit, launchOrderImplicit)
MUSTER_SAME_FIELD(rma_signals, numRmaSig)
MUSTER_SAME_FIELD(rma_eager_init, rmaEagerInit)
MUSTER_SAME_FIELD(host_cft_mode, hostCftMode)
#endif
#if NCCL_VERSION_CODE >= 23200
MUSTER_SAME_FIELD(nvls_host_mode, nvlsHostMode)
#endif

/// Where the last field of this header's configuration ends. What follows is padding.
#if NCCL_VERSION_CODE >= 23200
#define MUSTER_LAST nvlsHostMode
#elif NCCL_VERSION_CODE >= 23100
#define MUSTER_LAST hostCftMode
#elif NCCL_VERSION_CODE >= 23005
#define MUSTER_LAST graphStreamOrdering
#elif NCCL_VERSION_CODE >= 23000
#define MUSTER_LAST maxP2pPeers
#elif NCCL_VERSION_CODE >= 22900
#define MUSTER_LAST numRmaCtx
#elif NCCL_VERSION_CODE >= 22800
#define MUSTER_LAST nvlinkCentricSched
#elif NCCL_VERSION_CODE >= 22700
#define MUSTER_LAST nvlsCTAs
#elif NCCL_VERSION_CODE >= 22600
#define MUSTER_LAST trafficClass
#else
#define MUSTER_LAST splitShare
#endif
constexpr std::size_t end = offsetof(real::ncclConfig_t, MUSTER_LAST) + sizeof(real::ncclConfig_t::MUSTER_LAST);
static_assert(sizeof(real::ncclConfig_t) - end < alignof(real::ncclConfig_t), "ncclConfig_t has fields after the last");
static_assert(layout_of(version).size == sizeof(real::ncclConfig_t));
static_assert(layout_of(version).end == end);

/// NCCL's own initializer, and ours for this version.
constexpr bool same_initializer() {
  constexpr ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  constexpr Config ours = make_config(version);
  return theirs.size == ours.size && theirs.magic == ours.magic && theirs.version == ours.version &&
         theirs.blocking == ours.blocking && theirs.splitShare == ours.split_share && theirs.netName == ours.net_name;
}
static_assert(same_initializer());

}  // namespace
}  // namespace musterd::gpu::nccl
