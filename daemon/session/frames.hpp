// Builders of the frames that the daemon sends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <muster/result.hpp>

#include "memory/segment.hpp"

namespace musterd::frames {

using Bytes = std::vector<std::byte>;

[[nodiscard]] Bytes ok(std::uint64_t request);
[[nodiscard]] Bytes failure(std::uint64_t request, const muster::Error& error);
[[nodiscard]] Bytes goodbye(const muster::Error& error);
[[nodiscard]] Bytes segment(std::uint64_t request, const Segment& segment);
[[nodiscard]] Bytes missing(std::uint64_t request, const std::vector<int>& ranks);

}  // namespace musterd::frames
