// Reads small files of the kernel, under /proc and /sys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace muster::ipc {

/// A small file's text without the last newline; nothing if it can't be read.
[[nodiscard]] std::optional<std::string> read_text_file(const std::string& path);

/// The number after `key` in text of lines "key number" or "key: number kB"; nothing if there is none.
[[nodiscard]] std::optional<std::uint64_t> number_after(const std::string& text, const std::string& key);

}  // namespace muster::ipc
