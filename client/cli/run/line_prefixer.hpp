// Cuts the bytes of one rank's stream into whole lines that bear its prefix, so that the lines of several ranks
// can be mixed without mixing inside. Sans-IO: bytes and the time in, text out.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace muster::cli {

using TimePoint = std::chrono::steady_clock::time_point;

class LinePrefixer {
 public:
  /// A longer line is continued on the next, whose prefix ends in '+'.
  static constexpr std::size_t line_bytes_max = 64 << 10;
  /// A progress bar redraws its line after a carriage return; of these states at most one per interval is shown.
  static constexpr std::chrono::milliseconds redraw_interval{500};

  /// `prefix`: "[3]", with colour where wanted.
  explicit LinePrefixer(std::string prefix) : prefix_(std::move(prefix)) {}

  /// Whole lines, each with prefix and newline, that `bytes` completes.
  [[nodiscard]] std::string take(std::string_view bytes, TimePoint now);
  /// The last line if it had no newline.
  [[nodiscard]] std::string finish();
  [[nodiscard]] const std::string& prefix() const { return prefix_; }

 private:
  void append_line(std::string& out);
  void append_part(std::string_view part, std::string& out);
  void end_redraw(TimePoint now, std::string& out);

  std::string prefix_;
  std::string line_;
  std::string hidden_;  ///< the last redraw that was not shown; it is if nothing follows it
  bool continued_ = false;
  bool after_return_ = false;
  TimePoint redrawn_at_{};
};

}  // namespace muster::cli
