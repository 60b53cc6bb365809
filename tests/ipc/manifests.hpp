// Random manifests, and equality of manifests, for all tests that use manifests.
#pragma once

#include <algorithm>
#include <vector>

#include <catch2/catch.hpp>
#include <muster/ipc/manifest.hpp>

#include "random.hpp"

namespace muster::ipc::test {

inline Manifest random_manifest(Random& random, std::size_t leaves_limit = 6) {
  Manifest manifest;
  const auto leaves = random.between(0, leaves_limit);
  for (std::uint64_t i = 0; i < leaves; ++i) {
    const auto dtype = static_cast<DType>(random.between(0, dtype_count - 1));
    std::vector<std::int64_t> shape(random.between(0, random.chance(0.1) ? ndim_max : 4));
    for (auto& size : shape)
      size = static_cast<std::int64_t>(random.between(random.chance(0.1) ? 0 : 1, shape.size() > 4 ? 1 : 9));
    const SegmentId segment{static_cast<std::uint32_t>(random.between(1, 0xffffffff))};
    const auto device = random.chance(0.2)   ? Device::cuda(static_cast<std::uint8_t>(random.between(0, gpus_max - 1)))
                        : random.chance(0.2) ? Device::pinned()
                                             : Device::cpu();
    REQUIRE(manifest.add(segment, random.between(0, 1 << 20) * 16, dtype, shape, device));
  }
  manifest.structure = random.text(40);
  if (random.chance(0.3)) manifest.guise = random.text(40);
  if (random.chance(0.5)) manifest.makers = Makers::several_users;
  return manifest;
}

/// One array of float32 with `count` elements.
inline Manifest plain_manifest(std::int64_t count) {
  Manifest manifest;
  const std::vector<std::int64_t> shape{count};
  REQUIRE(manifest.add({7}, 4096, DType::float32, shape));
  return manifest;
}

inline bool same(const Manifest& a, const Manifest& b) {
  const auto same_leaf = [&](const Leaf& x, const Leaf& y) {
    return x.segment == y.segment && x.offset == y.offset && x.dtype == y.dtype && x.device == y.device &&
           x.count == y.count && std::ranges::equal(a.shape(x), b.shape(y));
  };
  return std::ranges::equal(a.leaves, b.leaves, same_leaf) && a.structure == b.structure && a.guise == b.guise &&
         a.makers == b.makers;
}

}  // namespace muster::ipc::test
