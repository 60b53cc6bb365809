// The line of our terminal that rank 0 has begun and not ended, for instance its progress bar: lines of other ranks
// that come meanwhile must neither tear it nor be overwritten by it. Sans-IO: bytes in, text out.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace muster::cli {

/// What the terminal that the line is on can do.
struct TerminalAbility {
  unsigned columns = 80;
  bool erases = true;  ///< knows the control sequence that does
};

class TerminalLine {
 public:
  /// A longer one is not remembered.
  static constexpr std::size_t line_bytes_max = 4096;

  /// What rank 0 writes. It goes to the terminal as it is.
  void take(std::string_view bytes);
  /// The whole lines of another rank, and around them what makes room for them. A line that fits into one row is
  /// erased before and drawn again after them. Any other is ended: what rank 0 writes next begins a new one.
  [[nodiscard]] std::string interrupt(std::string lines, const TerminalAbility& terminal);
  /// What ends the line, if something is on it, so that others can write.
  [[nodiscard]] std::string finish();

  [[nodiscard]] bool begun() const { return unknown_ || !drawn_.empty() || !text_.empty(); }
  /// The last line that was not blank, ended or not, without control sequences.
  [[nodiscard]] std::string last_words() const;

 private:
  void append(std::string_view part);
  void end_text();
  void forget();
  [[nodiscard]] bool can_be_drawn_again(const TerminalAbility& terminal) const;

  std::string drawn_;  ///< what the last carriage return went back over
  std::string text_;   ///< since the last newline or carriage return
  std::string last_;
  bool unknown_ = false;  ///< the line is too long to be remembered
};

}  // namespace muster::cli
