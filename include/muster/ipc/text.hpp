// Names from clients go into logs, lists and other clients' messages, so they must be text.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace muster::ipc {

/// True for well-formed UTF-8 without control characters, invisible characters, and characters that change the
/// direction of other text.
[[nodiscard]] bool is_text(std::string_view bytes);
/// The bytes as they are if they are text. Otherwise everything but printable ASCII is escaped like \x1b.
[[nodiscard]] std::string printable(std::string_view bytes);
/// At most so many bytes of UTF-8, with dots if it has more.
[[nodiscard]] std::string cut(std::string_view text, std::size_t bytes_max);
/// The same of bytes that may be no text: those are escaped as by printable().
[[nodiscard]] std::string shortened(std::string_view text, std::size_t bytes_max);

/// "0.3 s", "2.4 s", "3600 s"
[[nodiscard]] std::string seconds_text(std::chrono::nanoseconds duration);

/// The known word that was most likely meant; empty if none is near.
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> known);

}  // namespace muster::ipc
