// Widths are estimates, as no locale is used. A width that is too large only ends a line that could have been redrawn.
#include "terminal_line.hpp"

#include <utility>

namespace muster::cli {

namespace {

constexpr char escape = '\x1b';
constexpr std::string_view erase = "\r\x1b[K";

/// The control sequence at the start of `text`, which begins with an escape character.
std::string_view sequence_of(std::string_view text) {
  if (text.size() < 2 || text[1] != '[') return text.substr(0, 2);
  std::size_t end = 2;
  while (end < text.size() && (text[end] < '@' || text[end] > '~')) ++end;
  return text.substr(0, end + 1);
}

/// Colours and erasing leave the cursor where it is. A sequence that is not complete yet counts as one of these.
bool moves_cursor(std::string_view sequence) {
  return sequence.size() < 3 ? sequence.size() == 2 && sequence[1] != '['
                             : sequence.back() != 'm' && sequence.back() != 'K' && sequence.back() >= '@';
}

/// Columns that a byte adds. The bytes of a character after the first add none. A character of East Asia or an emoji
/// begins with a byte of 0xE3 or more, and takes two columns.
unsigned columns_of(char c) {
  const auto byte = static_cast<unsigned char>(c);
  constexpr unsigned tab = 8;
  if (c == '\t') return tab;
  if (byte < 0x20 || (byte & 0xC0U) == 0x80U) return 0;
  return byte >= 0xE3 ? 2 : 1;
}

bool fits_a_row(std::string_view text, unsigned columns) {
  unsigned width = 0;
  while (!text.empty()) {
    if (text.front() == escape) {
      const auto sequence = sequence_of(text);
      if (moves_cursor(sequence)) return false;
      text.remove_prefix(sequence.size());
      continue;
    }
    width += columns_of(text.front());
    text.remove_prefix(1);
  }
  return width <= columns;
}

std::string without_sequences(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t bytes = text.front() == escape ? sequence_of(text).size() : 1;
    if (text.front() != escape) out += text.front();
    text.remove_prefix(bytes);
  }
  return out;
}

bool is_blank(std::string_view text) { return without_sequences(text).find_first_not_of(" \t") == std::string::npos; }

}  // namespace

void TerminalLine::append(std::string_view part) {
  if (text_.size() + part.size() > line_bytes_max) {
    unknown_ = true;
    text_ = part.substr(0, line_bytes_max);
    return;
  }
  text_ += part;
}

void TerminalLine::end_text() {
  if (!is_blank(text_)) last_ = text_;
}

void TerminalLine::forget() {
  drawn_.clear();
  text_.clear();
  unknown_ = false;
}

void TerminalLine::take(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto end = bytes.find_first_of("\r\n");
    append(bytes.substr(0, end));
    if (end == std::string_view::npos) return;
    end_text();
    if (bytes[end] == '\n') forget();
    else if (!text_.empty()) drawn_ = std::exchange(text_, {});
    bytes.remove_prefix(end + 1);
  }
}

bool TerminalLine::can_be_drawn_again(const TerminalAbility& terminal) const {
  return terminal.erases && !unknown_ && fits_a_row(drawn_, terminal.columns) && fits_a_row(text_, terminal.columns);
}

std::string TerminalLine::interrupt(std::string lines, const TerminalAbility& terminal) {
  if (lines.empty() || !begun()) return lines;
  if (!can_be_drawn_again(terminal)) return finish() + lines;
  std::string out(erase);
  out += lines;
  if (!drawn_.empty()) out += drawn_ + "\r";
  return out + text_;
}

std::string TerminalLine::finish() {
  end_text();
  const bool blank = !unknown_ && is_blank(drawn_) && is_blank(text_);
  std::string out = !begun() ? "" : blank ? "\r" : "\n";
  forget();
  return out;
}

std::string TerminalLine::last_words() const { return without_sequences(is_blank(text_) ? last_ : text_); }

}  // namespace muster::cli
