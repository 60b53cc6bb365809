// Structured logs, one line an event, as text or JSON; repeated ones are counted instead of printed.
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

/// Where logs go from now on: standard error.
void start_log(LogFormat format, LogLevel level);

void log_line(LogLevel level, std::string_view message);
/// If a line of this topic may be printed now (a burst of ten, then one a second): how many were left out before it.
[[nodiscard]] std::optional<std::uint64_t> log_allowed(std::string_view topic);

// What can't be written, as there is no memory for it, is left out: a log line must not end what it tells of.

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

/// For what clients can cause as often as they like.
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
