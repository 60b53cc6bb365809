// Structured logs as text or JSON, one line for each event. Repeated lines are counted instead of printed.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace musterd {

enum class LogLevel : std::uint8_t { debug, info, warning, error };
enum class LogFormat : std::uint8_t { text, json };

/// From now on logs go to standard error.
void start_log(LogFormat format, LogLevel level);

void log_line(LogLevel level, std::string_view message);
/// Nothing if a line of this topic may not be printed now: a burst of ten may, then one a second. Otherwise, how many
/// lines were left out before it.
[[nodiscard]] std::optional<std::uint64_t> log_allowed(std::string_view topic);

// A line that there is no memory for is left out: logging must not end what it reports.

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) noexcept try {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
} catch (const std::exception&) {
}

template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) noexcept try {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
} catch (const std::exception&) {
}

/// For events that clients can cause as often as they like.
template <class... Args>
void log_limited(LogLevel level, std::string_view topic, fmt::format_string<Args...> format, Args&&... args) noexcept
    try {
  const auto left_out = log_allowed(topic);
  if (!left_out) return;
  auto message = fmt::format(format, std::forward<Args>(args)...);
  if (*left_out > 0) message += fmt::format(" ({} more like this were not printed)", *left_out);
  log_line(level, message);
} catch (const std::exception&) {
}

}  // namespace musterd
