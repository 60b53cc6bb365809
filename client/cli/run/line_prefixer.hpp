// Cuts the bytes of one rank's stream into whole lines and gives each the rank's prefix. So lines of several ranks can
// be mixed, but no line is torn. Sans-IO: it takes bytes and the time, and returns text.
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
  /// A progress bar redraws its line after a carriage return. At most one of these states is shown per interval.
  static constexpr std::chrono::milliseconds redraw_interval{500};

  /// `prefix` is for instance "[3]", in colour where that is wanted.
  explicit LinePrefixer(std::string prefix) : prefix_(std::move(prefix)) {}

  /// Returns the whole lines that `bytes` completes, each with prefix and newline.
  [[nodiscard]] std::string take(std::string_view bytes, TimePoint now);
  /// Returns the last line if it had no newline.
  [[nodiscard]] std::string finish();
  [[nodiscard]] const std::string& prefix() const { return prefix_; }

 private:
  void append_line(std::string& out);
  void append_part(std::string_view part, std::string& out);
  void end_redraw(TimePoint now, std::string& out);

  std::string prefix_;
  std::string line_;
  std::string hidden_;  ///< the last redraw that was not shown; it is shown if nothing follows it
  bool continued_ = false;
  bool after_return_ = false;
  TimePoint redrawn_at_{};
};

}  // namespace muster::cli
