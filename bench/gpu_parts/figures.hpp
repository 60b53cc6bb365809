// Figures of one run: a table for people, and a JSON object for each on demand.
#pragma once

#include <chrono>
#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

using Clock = std::chrono::steady_clock;

struct Figure {
  std::string_view what{};   ///< "fold", "copy", ...
  std::string_view dtype{};  ///< empty: of no dtype
  unsigned ranks = 0;        ///< inputs; 0: of none
  std::uint64_t bytes = 0;
  double median_us = 0;
  double min_us = 0;
  double p99_us = 0;
  double gbps = 0;   ///< bytes read and written; 0: nothing is
  double share = 0;  ///< of the rate of a copy; 0: not compared
  bool has_goal = false;
};

/// What a fold should reach: this share of the rate of a copy on the same GPU.
inline constexpr double goal_share = 0.9;

[[nodiscard]] double us_since(Clock::time_point begin);
/// Sets the times of a figure. `moved_bytes`: what was read and written in each.
[[nodiscard]] Figure summarized(Figure figure, std::vector<double> times_us, std::uint64_t moved_bytes = 0);

class Report {
 public:
  /// `json_path`: empty for none. Throws if it can't be written.
  Report(const std::string& json_path, std::string device, bool is_fake);
  void add(const Figure& figure);
  /// Something that was not measured, and why.
  void leave_out(const std::string& what, const std::string& why);
  [[nodiscard]] unsigned missed() const { return missed_; }

 private:
  std::ofstream json_;
  std::string device_;
  bool is_fake_;
  unsigned missed_ = 0;  ///< goals
};

}  // namespace bench
