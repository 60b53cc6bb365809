// Whether the machine was busy with something else while `muster bench` measured: times are longer then.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace muster::cli {

/// Processor time over some stretch of time.
struct Load {
  double wall_us = 0;
  unsigned cores = 0;  ///< that the benchmark may use
  double busy_us = 0;  ///< of these cores together
  double own_us = 0;   ///< what the benchmark's ranks and the daemon used

  /// Another stretch, which follows this one.
  void extend(const Load& next);
};

/// The kernel counts what cores do in ticks of 10 ms: of a shorter time it can't be said who used them.
constexpr double load_wall_us_min = 200e3;
/// What any machine does besides is less.
constexpr double busy_share_min = 0.15;

/// The part of the cores' time that other processes used, 0 to 1. Nothing: it can't be said.
[[nodiscard]] std::optional<double> others_share(const Load& load);
[[nodiscard]] bool is_busy(std::optional<double> others_share);

/// What the chosen cores have worked since the machine started, by the text of /proc/stat. Nothing if it doesn't tell.
[[nodiscard]] std::optional<double> busy_us_of(const std::string& proc_stat, double tick_us,
                                               const std::function<bool(unsigned)>& chosen);

/// The same of the cores that this process may use, now; 0 if the kernel doesn't tell.
[[nodiscard]] double busy_us_now();
[[nodiscard]] unsigned usable_cores();

}  // namespace muster::cli
