#include "load.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>

#include <muster/ipc/text_file.hpp>

namespace muster::cli {

namespace {

cpu_set_t usable_set() {
  cpu_set_t set;
  CPU_ZERO(&set);
  ::sched_getaffinity(0, sizeof set, &set);
  return set;
}

/// Parses "user nice system idle iowait irq softirq steal guest ...". Adds up what is neither idle nor counted twice.
double busy_ticks(std::istringstream& counts) {
  constexpr std::array counted{true, true, true, false, false, true, true, true};
  double sum = 0;
  for (const bool counts_as_busy : counted) {
    double ticks = 0;
    if (!(counts >> ticks)) break;  // an old kernel has fewer
    if (counts_as_busy) sum += ticks;
  }
  return sum;
}

}  // namespace

void Load::extend(const Load& next) {
  wall_us += next.wall_us;
  cores = std::max(cores, next.cores);
  busy_us += next.busy_us;
  own_us += next.own_us;
}

std::optional<double> others_share(const Load& load) {
  if (load.wall_us < load_wall_us_min || load.cores == 0 || load.busy_us <= 0) return {};
  return std::clamp((load.busy_us - load.own_us) / (load.wall_us * load.cores), 0.0, 1.0);
}

bool is_busy(std::optional<double> others_share) { return others_share.value_or(0) >= busy_share_min; }

std::optional<double> busy_us_of(const std::string& proc_stat, double tick_us,
                                 const std::function<bool(unsigned)>& chosen) {
  std::istringstream lines(proc_stat);
  std::optional<double> sum;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name.size() < 4 || !name.starts_with("cpu") || name.find_first_not_of("0123456789", 3) != std::string::npos)
      continue;
    if (chosen(static_cast<unsigned>(std::stoul(name.substr(3))))) sum = sum.value_or(0) + busy_ticks(words) * tick_us;
  }
  return sum;
}

double busy_us_now() {
  const auto text = ipc::read_text_file("/proc/stat");
  if (!text) return 0;
  const auto set = usable_set();
  const double tick_us = 1e6 / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return busy_us_of(*text, tick_us, [&set](unsigned cpu) { return cpu < CPU_SETSIZE && CPU_ISSET(cpu, &set); })
      .value_or(0);
}

unsigned usable_cores() {
  const auto set = usable_set();
  return static_cast<unsigned>(CPU_COUNT(&set));
}

}  // namespace muster::cli
