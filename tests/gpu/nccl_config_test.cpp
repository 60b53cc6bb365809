// The configuration that each version of NCCL expects. nccl_abi_test.cpp compares the layouts with NVIDIA's headers.
#include <catch2/catch.hpp>

#include "gpu/nccl_config.hpp"

namespace musterd::gpu::nccl {
namespace {

struct Expected {
  int version;
  std::size_t size;
};

TEST_CASE("each version gets the size of its own header") {
  // sizeof(ncclConfig_t) of the releases.
  for (const auto& [version, size] :
       {Expected{21903, 48}, Expected{22005, 48}, Expected{22105, 48}, Expected{22203, 48}, Expected{22304, 48},
        Expected{22403, 48}, Expected{22501, 48}, Expected{22602, 48}, Expected{22707, 72}, Expected{22809, 80},
        Expected{22907, 88}, Expected{23004, 96}, Expected{23007, 96}, Expected{23102, 112}, Expected{23203, 120}}) {
    INFO(version);
    const Config config = make_config(version);
    CHECK(config.size == size);
    CHECK(config.magic == 0xcafebeef);
    CHECK(config.version == static_cast<unsigned>(version));
  }
}

TEST_CASE("a library that is newer than all layouts gets the newest, with its version") {
  const Config config = make_config(23301);
  CHECK(config.size == 120);
  CHECK(config.version == 23200);
}

TEST_CASE("nothing is set, not even in what is padding to the library") {
  for (const auto& layout : config_layouts) {
    const Config config = make_config(layout.since);
    const auto* const words = reinterpret_cast<const int*>(&config);
    for (std::size_t at = offsetof(Config, blocking); at < layout.size; at += sizeof(int)) {
      const bool pointer = (at >= offsetof(Config, net_name) && at < offsetof(Config, split_share)) ||
                           (at >= offsetof(Config, comm_name) && at < offsetof(Config, collnet_enable));
      const bool beyond = at >= offsetof(Config, nvls_host_mode) + sizeof(int);
      INFO(layout.since << " at " << at);
      if (!beyond) CHECK(words[at / sizeof(int)] == (pointer ? 0 : INT_MIN));
    }
  }
}

TEST_CASE("a field is known from the version on that brought it") {
  CHECK(has_field(21903, &Config::split_share));
  CHECK_FALSE(has_field(22501, &Config::traffic_class));
  CHECK(has_field(22602, &Config::traffic_class));
  CHECK_FALSE(has_field(22602, &Config::comm_name));
  CHECK(has_field(22703, &Config::comm_name));
  CHECK_FALSE(has_field(23004, &Config::graph_stream_ordering));
  CHECK(has_field(23007, &Config::graph_stream_ordering));
  CHECK_FALSE(has_field(23102, &Config::nvls_host_mode));
  CHECK(has_field(23203, &Config::nvls_host_mode));
}

TEST_CASE("layouts only grow, and each ends within its size") {
  for (std::size_t i = 0; i < config_layouts.size(); ++i) {
    const auto& layout = config_layouts[i];
    CHECK(layout.end <= layout.size);
    CHECK(layout.size <= sizeof(Config));
    if (i > 0) CHECK(layout.end > config_layouts[i - 1].end);
    if (i > 0) CHECK(layout.since > config_layouts[i - 1].since);
  }
}

}  // namespace
}  // namespace musterd::gpu::nccl
