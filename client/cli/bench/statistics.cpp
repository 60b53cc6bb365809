// Quantiles are measured values, never interpolated. The only exception is the median of an even number of values: it
// is the mean of the two in the middle.
#include "statistics.hpp"

#include <algorithm>
#include <cmath>

namespace muster::cli {

namespace {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
  return values[std::clamp<std::size_t>(rank, 1, values.size()) - 1];
}

Figures summarize(const std::vector<SizeReport>& reports) {
  std::vector<double> walls;
  std::vector<double> cpus;
  Figures figures;
  for (std::size_t round = 0; !reports.empty() && round < reports[0].samples.size(); ++round) {
    double slowest = 0;
    double cpu = 0;
    for (const auto& report : reports) {
      slowest = std::max(slowest, report.samples[round].wall_us);
      cpu += report.samples[round].cpu_us;
    }
    walls.push_back(slowest);
    cpus.push_back(cpu);
  }
  for (const auto& report : reports) {
    figures.wrong += report.wrong;
    figures.load.extend(report.load);
  }
  figures.min_us = quantile(walls, 0);
  figures.median_us = median(walls);
  figures.p99_us = quantile(walls, 0.99);
  figures.cpu_us = median(cpus);
  return figures;
}

}  // namespace muster::cli
