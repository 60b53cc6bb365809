// Turns the samples of all ranks into the figures of one size.
#pragma once

#include <vector>

#include "link.hpp"

namespace muster::cli {

struct Figures {
  double min_us = 0;
  double median_us = 0;
  double p99_us = 0;
  double cpu_us = 0;  ///< median over rounds of what all ranks and the daemon used
  std::uint64_t wrong = 0;
  Load load;  ///< of all ranks
};

/// reports[rank], the same number of rounds in each. A round's time is that of its slowest rank.
[[nodiscard]] Figures summarize(const std::vector<SizeReport>& reports);

/// The value below which at least `share` of the sorted values lie (nearest rank). Returns 0 if there are no values.
[[nodiscard]] double quantile(std::vector<double> values, double share);

}  // namespace muster::cli
