// Columns have fixed widths because lines are printed while the benchmark runs.
#include "report.hpp"

#include <array>
#include <cstdio>

#include <fmt/format.h>

#include <muster/ipc/json.hpp>

#include "../text.hpp"

namespace muster::cli {

namespace {

struct Bandwidth {
  double algorithm_gbps = 0;  ///< 1e9 bytes per second
  double bus_gbps = 0;
};

Bandwidth bandwidth(const BenchOptions& options, const Workload& workload, const Figures& figures) {
  if (figures.median_us <= 0) return {};
  const auto factors = bandwidth_factors(options.op, options.ranks);
  const auto bytes = static_cast<double>(workload.input_bytes(options.dtype)) * factors.algorithm;
  const double gbps = bytes / figures.median_us / 1e3;
  return {gbps, gbps * factors.bus};
}

std::string redop_of(const BenchOptions& options) {
  return reduces(options.op) ? std::string(name(options.redop)) : "none";
}

std::string dtype_of(const BenchOptions& options) {
  return options.op == BenchOp::barrier ? "none" : std::string(name(options.dtype));
}

std::string aligned(const std::array<std::string, 11>& cells) {
  constexpr std::array widths{12, 11, 11, 6, 11, 11, 11, 9, 9, 11, 7};
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) line += fmt::format(" {:>{}}", cells[i], widths[i]);
  return line + "\n";
}

}  // namespace

std::string table_head(const BenchOptions& options) {
  std::string text =
      fmt::format("# muster bench {}: {}, {} + {} rounds, a round's time is the slowest rank's", name(options.op),
                  plural(static_cast<std::uint64_t>(options.ranks), "rank"), options.warmups, options.iterations);
  if (options.variant != BenchVariant::default_) text += fmt::format(", variant {}", name(options.variant));
  text +=
      "\n#" + aligned({"size", "count", "type", "redop", "min", "median", "p99", "algbw", "busbw", "cpu", "#wrong"});
  text += "#" + aligned({"(B)", "(elements)", "", "", "(us)", "(us)", "(us)", "(GB/s)", "(GB/s)", "(us)", ""});
  return text;
}

std::string table_line(const BenchOptions& options, const Workload& workload, const Figures& figures) {
  const auto speed = bandwidth(options, workload, figures);
  const auto microseconds = [](double value) { return format_fixed(value, value < 1000 ? 2 : 1); };
  return " " +
         aligned({std::to_string(workload.input_bytes(options.dtype)),
                  std::to_string(workload.count * static_cast<std::uint64_t>(workload.parts)), dtype_of(options),
                  redop_of(options), microseconds(figures.min_us), microseconds(figures.median_us),
                  microseconds(figures.p99_us), format_fixed(speed.algorithm_gbps, 2), format_fixed(speed.bus_gbps, 2),
                  microseconds(figures.cpu_us), options.check ? std::to_string(figures.wrong) : "N/A"});
}

std::string json_line(const BenchOptions& options, const Workload& workload, const Figures& figures, const Load& load) {
  const auto speed = bandwidth(options, workload, figures);
  ipc::JsonWriter json;
  json.begin_object();
  json.field("system", "muster").field("client", "c++").field("op", name(options.op));
  json.field("variant", name(options.variant)).field("ranks", options.ranks);
  json.field("bytes", workload.input_bytes(options.dtype));
  json.field("median_us", figures.median_us).field("min_us", figures.min_us).field("p99_us", figures.p99_us);
  json.field("cpu_us", figures.cpu_us);
  if (options.op == BenchOp::barrier) json.key("gbps").null().key("busbw_gbps").null();
  else json.field("gbps", speed.algorithm_gbps).field("busbw_gbps", speed.bus_gbps);
  json.field("count", workload.count * static_cast<std::uint64_t>(workload.parts));
  json.field("dtype", dtype_of(options)).field("redop", redop_of(options));
  if (options.check) json.field("wrong", figures.wrong);
  else json.key("wrong").null();
  const auto others = others_share(load);
  if (others) json.field("others_cpu", *others).field("busy", is_busy(others));
  else json.key("others_cpu").null().key("busy").null();
  json.end_object();
  return json.text() + "\n";
}

std::string load_line(const Load& load) {
  const auto others = others_share(load);
  if (!is_busy(others)) return {};
  return fmt::format(
      "# the machine was busy: other processes used {:.0f} % of {}; times are shorter on a quiet machine\n",
      *others * 100, plural(load.cores, "core"));
}

}  // namespace muster::cli
