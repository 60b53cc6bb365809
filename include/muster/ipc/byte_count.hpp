// Sizes as people write them: "4GiB", "512M", "1.5g", "1000000".
#pragma once

#include <cstdint>
#include <string>

#include <muster/result.hpp>

namespace muster::ipc {

/// Bytes; K, M, G and T are powers of 1024. Invalid if the text is no size from 1 byte to 1 PiB.
[[nodiscard]] Result<std::uint64_t> parse_bytes(const std::string& text);

}  // namespace muster::ipc
