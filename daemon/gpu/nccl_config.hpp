// ncclConfig_t has grown with nearly every version of NCCL. A library takes the size, the magic number and the version
// that its own header writes; this makes a configuration with them for whichever library is loaded.
#pragma once

#include <array>
#include <climits>
#include <cstddef>

#include "gpu/nccl_abi.hpp"

namespace musterd::gpu::nccl {

/// How far ncclConfig_t goes in the versions from `since` up to the next layout.
struct ConfigLayout {
  int since;         ///< 22907 is NCCL 2.29.7
  std::size_t size;  ///< as sizeof says
  std::size_t end;   ///< where the last field ends; some layouts have padding after it
};

/// From NCCL's headers, since nccl_version_min. NCCL copies `size` bytes over its own defaults, and then takes its
/// defaults again for the fields that are newer than `version`. The versions that it compares with are not all those
/// that brought the field, so both numbers must be the library's own.
inline constexpr std::array config_layouts{
    ConfigLayout{21900, 48, 44},    // up to splitShare
    ConfigLayout{22600, 48, 48},    // trafficClass, in what was padding
    ConfigLayout{22700, 72, 72},    // commName, collnetEnable, CTAPolicy, shrinkShare, nvlsCTAs
    ConfigLayout{22800, 80, 80},    // nChannelsPerNetPeer, nvlinkCentricSched
    ConfigLayout{22900, 88, 88},    // graphUsageMode, numRmaCtx
    ConfigLayout{23000, 96, 92},    // maxP2pPeers
    ConfigLayout{23005, 96, 96},    // graphStreamOrdering, in what was padding
    ConfigLayout{23100, 112, 112},  // launchOrderImplicit, numRmaSig, rmaEagerInit, hostCftMode
    ConfigLayout{23200, 120, 116},  // nvlsHostMode
};

/// The layout of that version; the oldest for versions before nccl_version_min, which are never loaded.
[[nodiscard]] constexpr const ConfigLayout& layout_of(int version) {
  const ConfigLayout* found = config_layouts.data();
  for (const auto& layout : config_layouts)
    if (layout.since <= version) found = &layout;
  return *found;
}

/// A configuration in which nothing is set, for a library of that version. A library that is newer than all layouts
/// gets the newest of them, with the version of that layout: then it takes its defaults for the fields that we don't
/// know.
[[nodiscard]] constexpr Config make_config(int version) {
  constexpr int minor = 100;  // from 2.32 to 2.33
  constexpr int unset = INT_MIN;
  const ConfigLayout& layout = layout_of(version);
  const bool unknown = layout.since == config_layouts.back().since && version >= layout.since + minor;
  Config config{};
  config.size = layout.size;
  config.magic = 0xcafebeef;
  config.version = static_cast<unsigned>(unknown ? layout.since : version);
  // Fields beyond `size` are set, too: what is padding to this library may be a field of the next one.
  for (auto field : {&Config::blocking,
                     &Config::cga_cluster_size,
                     &Config::min_ctas,
                     &Config::max_ctas,
                     &Config::split_share,
                     &Config::traffic_class,
                     &Config::collnet_enable,
                     &Config::cta_policy,
                     &Config::shrink_share,
                     &Config::nvls_ctas,
                     &Config::channels_per_net_peer,
                     &Config::nvlink_centric_sched,
                     &Config::graph_usage_mode,
                     &Config::rma_contexts,
                     &Config::max_p2p_peers,
                     &Config::graph_stream_ordering,
                     &Config::launch_order_implicit,
                     &Config::rma_signals,
                     &Config::rma_eager_init,
                     &Config::host_cft_mode,
                     &Config::nvls_host_mode})
    config.*field = unset;
  return config;
}

/// Whether libraries of that version know the field: has_field(version, &Config::comm_name).
template <class T>
[[nodiscard]] bool has_field(int version, T Config::*field) {
  constexpr Config none{};
  const auto* const begin = reinterpret_cast<const std::byte*>(&none);
  const auto* const at = reinterpret_cast<const std::byte*>(&(none.*field));
  return static_cast<std::size_t>(at - begin) + sizeof(T) <= layout_of(version).end;
}

}  // namespace musterd::gpu::nccl
