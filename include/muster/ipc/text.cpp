#include <muster/ipc/text.hpp>

#include <cstdio>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

namespace muster::ipc {

namespace {

/// How many bytes follow a first byte, and the smallest code point that needs so many.
struct Sequence {
  std::size_t following;
  std::uint32_t code;
  std::uint32_t code_min;
};

Sequence sequence_of(unsigned char first) {
  if (first < 0x80) return {0, first, 0};
  if ((first & 0xE0) == 0xC0) return {1, first & 0x1FU, 0x80};
  if ((first & 0xF0) == 0xE0) return {2, first & 0x0FU, 0x800};
  if ((first & 0xF8) == 0xF0) return {3, first & 0x07U, 0x10000};
  return {0, 0, 1};  // not a first byte: its code is below the smallest
}

/// Characters that are invisible or change how other text looks. A name with them could pass for another name, or for
/// several lines.
bool is_hidden(std::uint32_t code) {
  constexpr std::array<std::pair<std::uint32_t, std::uint32_t>, 9> ranges{{
      {0x00AD, 0x00AD},    // soft hyphen
      {0x061C, 0x061C},    // Arabic letter mark
      {0x180E, 0x180E},    // Mongolian vowel separator
      {0x200B, 0x200F},    // characters without width, and marks of direction
      {0x2028, 0x202E},    // line and paragraph separator, embedded and overridden direction
      {0x2060, 0x206F},    // word joiner, invisible operators, isolated direction
      {0xFEFF, 0xFEFF},    // byte order mark
      {0xFFF9, 0xFFFB},    // interlinear notes
      {0xE0000, 0xE007F},  // tags
  }};
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const auto& range) { return code >= range.first && code <= range.second; });
}

bool is_character(std::uint32_t code) {
  const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return !control && !surrogate && code < 0x110000 && (code < 0x80 || !is_hidden(code));
}

}  // namespace

bool is_text(std::string_view bytes) {
  while (!bytes.empty()) {
    auto [following, code, code_min] = sequence_of(static_cast<unsigned char>(bytes.front()));
    bytes.remove_prefix(1);
    if (following > bytes.size()) return false;
    for (const char next : bytes.substr(0, following)) {
      if ((next & 0xC0) != 0x80) return false;
      code = code << 6 | (static_cast<unsigned char>(next) & 0x3FU);
    }
    bytes.remove_prefix(following);
    if (code < code_min || !is_character(code)) return false;
  }
  return true;
}

std::string printable(std::string_view bytes) {
  if (is_text(bytes)) return std::string(bytes);
  std::string made;
  for (const char byte : bytes) {
    const auto code = static_cast<unsigned char>(byte);
    char escaped[5] = {byte};
    if (code < 0x20 || code >= 0x7F) std::snprintf(escaped, sizeof escaped, "\\x%02x", unsigned{code});
    made += escaped;
  }
  return made;
}

std::string cut(std::string_view text, std::size_t bytes_max) {
  if (text.size() <= bytes_max) return std::string(text);
  // Does not cut inside a character.
  while (bytes_max > 0 && (static_cast<unsigned char>(text[bytes_max]) & 0xc0) == 0x80) --bytes_max;
  return std::string(text.substr(0, bytes_max)) + "...";
}

std::string shortened(std::string_view text, std::size_t bytes_max) { return printable(cut(text, bytes_max)); }

std::string seconds_text(std::chrono::nanoseconds duration) {
  const double seconds = std::chrono::duration<double>(duration).count();
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), seconds >= 1000 ? "%.0f s" : "%.3g s", seconds);
  return text.data();
}

namespace {

/// Letters to insert, remove, replace, or swap with the next one: the optimal string alignment distance of Damerau
/// (1964) and Levenshtein (1966), a row of the table at a time.
std::size_t edits_between(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before;  // the row before the last
  std::vector<std::size_t> last;
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(last, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest(std::string_view word, std::span<const std::string> known) {
  constexpr std::size_t typed_min = 4;  // "--me" may be short for --memory
  std::string found;
  std::size_t fewest = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const auto& one : known) {
    const bool is_begun = word.size() >= typed_min && one.starts_with(word);
    const std::size_t edits = is_begun ? 0 : edits_between(word, one);
    if (edits >= fewest) continue;
    fewest = edits;
    found = one;
  }
  return found;
}

}  // namespace muster::ipc
