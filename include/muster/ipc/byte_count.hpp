// Sizes as people write and read them: "4GiB", "512M", "1.5g", "1000000".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <muster/result.hpp>

namespace muster::ipc {

/// Bytes, rounded. K, M, G and T are powers of 1024. Invalid if the text is not a size up to 1 PiB.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);
/// "64 MiB", "1.5 GiB", "100 B": rounded to what a reader needs.
[[nodiscard]] std::string bytes_text(std::uint64_t bytes);
/// The same, but exact to the byte if the rounded text would be equal to that of `other`, which is another size.
[[nodiscard]] std::string bytes_text(std::uint64_t bytes, std::uint64_t other);
/// "3 MiB; the limit is 1 MiB"
[[nodiscard]] std::string over_text(std::uint64_t bytes, std::uint64_t limit);

}  // namespace muster::ipc
