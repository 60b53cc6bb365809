#include "base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>

namespace musterd {

namespace {

constexpr double burst = 10;
constexpr double lines_per_second = 1;
constexpr std::size_t topics_max = 256;

LogFormat chosen_format = LogFormat::text;

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return spdlog::level::debug;
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: return spdlog::level::err;
  }
  return spdlog::level::info;
}

/// JSON strings may not hold quotes, backslashes or control characters as they are.
std::string json_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20) out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else out += c;
  }
  return out;
}

}  // namespace

void start_log(LogFormat format, LogLevel level) {
  chosen_format = format;
  auto logger = spdlog::stderr_logger_mt("musterd");
  logger->set_pattern(format == LogFormat::json
                          ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","pid":%P,"message":"%v"})"
                          : "%Y-%m-%d %H:%M:%S.%e %l %v");
  logger->set_level(to_spdlog(level));
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

void log_line(LogLevel level, std::string_view message) {
  if (chosen_format == LogFormat::json) spdlog::log(to_spdlog(level), "{}", json_escaped(message));
  else spdlog::log(to_spdlog(level), "{}", message);
}

std::optional<std::uint64_t> log_allowed(std::string_view topic) {
  struct Bucket {
    double tokens = burst;
    std::chrono::steady_clock::time_point filled = std::chrono::steady_clock::now();
    std::uint64_t left_out = 0;
  };
  static std::mutex mutex;
  static std::map<std::string, Bucket, std::less<>> buckets;
  const std::lock_guard lock(mutex);
  if (buckets.size() >= topics_max && !buckets.contains(topic)) return std::nullopt;
  auto& bucket = buckets.try_emplace(std::string(topic)).first->second;
  const auto now = std::chrono::steady_clock::now();
  const double elapsed = std::chrono::duration<double>(now - bucket.filled).count();
  bucket.tokens = std::min(burst, bucket.tokens + elapsed * lines_per_second);
  bucket.filled = now;
  if (bucket.tokens < 1) {
    ++bucket.left_out;
    return std::nullopt;
  }
  bucket.tokens -= 1;
  return std::exchange(bucket.left_out, 0);
}

}  // namespace musterd
