// The line of our terminal that rank 0 has begun and not ended, for instance its progress bar. Lines of other ranks
// that arrive meanwhile must neither tear it nor be overwritten by it. Sans-IO: takes bytes and returns text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace muster::cli {

/// What the terminal with this line can do.
struct TerminalAbility {
  unsigned columns = 80;
  bool erases = true;  ///< it knows the control sequence that erases a line
};

class TerminalLine {
 public:
  /// A longer line is not remembered.
  static constexpr std::size_t line_bytes_max = 4096;

  /// Notes what rank 0 writes. The same bytes go to the terminal unchanged.
  void take(std::string_view bytes);
  /// Returns the whole lines of another rank, and around them what makes room for them. A line of rank 0 that fits in
  /// one row is erased before them and drawn again after them. A longer one is ended: what rank 0 writes next begins a
  /// new line.
  [[nodiscard]] std::string interrupt(std::string lines, const TerminalAbility& terminal);
  /// Returns what ends the line, if it is not empty, so that others can write.
  [[nodiscard]] std::string finish();

  [[nodiscard]] bool begun() const { return unknown_ || !drawn_.empty() || !text_.empty(); }
  /// The last line that was not blank, whether it has ended or not, without control sequences.
  [[nodiscard]] std::string last_words() const;

 private:
  void append(std::string_view part);
  void end_text();
  void forget();
  [[nodiscard]] bool can_be_drawn_again(const TerminalAbility& terminal) const;

  std::string drawn_;  ///< the part before the last carriage return, still on the screen
  std::string text_;   ///< the part since the last newline or carriage return
  std::string last_;
  bool unknown_ = false;  ///< the line is too long to be remembered
};

}  // namespace muster::cli
