// Whether the machine was busy with something else while `muster bench` measured: times are longer then.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace muster::cli {

/// Processor time over some stretch of time.
struct Load {
  double wall_us = 0;
  unsigned cores = 0;  ///< how many the benchmark may use
  double busy_us = 0;  ///< how long these cores together were busy
  double own_us = 0;   ///< the part of it that the benchmark's ranks and the daemon used

  /// Adds the stretch of time that follows this one.
  void extend(const Load& next);
};

/// The kernel counts the cores' time in ticks of 10 ms. It can't say who used them during a shorter time than this.
constexpr double load_wall_us_min = 200e3;
/// Any machine does a little besides; it takes less than this share.
constexpr double busy_share_min = 0.15;

/// The part of the cores' time that other processes used, 0 to 1. Returns nothing if that can't be said.
[[nodiscard]] std::optional<double> others_share(const Load& load);
[[nodiscard]] bool is_busy(std::optional<double> others_share);

/// How long the chosen cores have worked since the machine started, from the text of /proc/stat. Nothing if it doesn't
/// say.
[[nodiscard]] std::optional<double> busy_us_of(const std::string& proc_stat, double tick_us,
                                               const std::function<bool(unsigned)>& chosen);

/// The same now, for the cores that this process may use. 0 if the kernel doesn't say.
[[nodiscard]] double busy_us_now();
[[nodiscard]] unsigned usable_cores();

}  // namespace muster::cli
