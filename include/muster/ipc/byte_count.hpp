// Sizes as people write them: "4GiB", "512M", "1.5g", "1000000".
#pragma once

#include <cstdint>
#include <string_view>

#include <muster/result.hpp>

namespace muster::ipc {

/// Bytes, rounded; K, M, G and T are powers of 1024. Invalid if the text is no size up to 1 PiB.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);

}  // namespace muster::ipc
