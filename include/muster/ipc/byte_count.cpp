#include <muster/ipc/byte_count.hpp>

#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>

#include <fmt/format.h>

namespace muster::ipc {

namespace {

/// Nothing if `unit` does not name a power of 1024.
std::optional<double> factor_of(std::string_view unit) {
  std::string lower;
  for (const char c : unit) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (lower.ends_with("ib")) lower.resize(lower.size() - 2);
  else if (lower.ends_with("b")) lower.resize(lower.size() - 1);
  if (lower.empty()) return 1.0;
  constexpr std::string_view prefixes = "kmgt";
  const auto at = lower.size() == 1 ? prefixes.find(lower[0]) : std::string_view::npos;
  if (at == std::string_view::npos) return std::nullopt;
  return std::pow(1024.0, static_cast<double>(at + 1));
}

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
  constexpr double bytes_max = 0x1p50;
  const Error error(Code::invalid, fmt::format("'{}' is not a size", text), "write it as 4096, 64K, 512MiB or 4GiB");
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  if (parsed.ec != std::errc() || !(number >= 0)) return error;
  std::string_view unit(parsed.ptr, static_cast<std::size_t>(end - parsed.ptr));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  const auto factor = factor_of(unit);
  if (!factor || !(number * *factor <= bytes_max)) return error;
  return static_cast<std::uint64_t>(std::llround(number * *factor));
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> units{" B", " KiB", " MiB", " GiB", " TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  // A value that would be rounded to 1024 of a unit is shown as 1 of the next.
  while (value >= 1023.5 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  const double tenths = std::round(value * 10) / 10;
  const bool is_whole = value >= 100 || tenths == std::floor(tenths);
  std::array<char, 32> digits{};
  const auto [end, error] =
      std::to_chars(digits.data(), digits.data() + digits.size(), is_whole ? std::round(value) : tenths,
                    std::chars_format::fixed, is_whole ? 0 : 1);
  return std::string(digits.data(), end) + units[unit];
}

std::string bytes_text(std::uint64_t bytes, std::uint64_t other) {
  auto text = bytes_text(bytes);
  return bytes == other || text != bytes_text(other) ? text : fmt::format("{} B", bytes);
}

std::string over_text(std::uint64_t bytes, std::uint64_t limit) {
  return fmt::format("{}; the limit is {}", bytes_text(bytes, limit), bytes_text(limit, bytes));
}

}  // namespace muster::ipc
