#include "figures.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/json.hpp>

namespace bench {

double us_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

Figure summarized(Figure figure, std::vector<double> times_us, std::uint64_t moved_bytes) {
  std::ranges::sort(times_us);
  figure.median_us = times_us[times_us.size() / 2];
  figure.min_us = times_us.front();
  figure.p99_us = times_us[std::min(times_us.size() - 1, times_us.size() * 99 / 100)];
  figure.gbps = static_cast<double>(moved_bytes) / figure.median_us / 1e3;
  return figure;
}

Report::Report(const std::string& json_path, std::string device, bool is_fake)
    : device_(std::move(device)), is_fake_(is_fake) {
  if (!json_path.empty()) {
    json_.open(json_path);
    if (!json_) throw std::runtime_error("can't write " + json_path);
  }
  std::puts("| what | dtype | ranks | bytes | median | p99 | GB/s | of a copy's rate |");
  std::puts("| --- | --- | --- | --- | --- | --- | --- | --- |");
}

void Report::add(const Figure& figure) {
  const bool missed = figure.has_goal && figure.share < goal_share;
  if (missed) ++missed_;
  const std::string share = figure.share == 0 ? "" : fmt::format("{:.2f}", figure.share);
  const std::string goal = figure.has_goal ? fmt::format(" ({:.2g}{})", goal_share, missed ? " !" : "") : "";
  fmt::print("| {}{} | {} | {} | {} | {:.1f} us | {:.1f} us | {} | {}{} |\n", figure.what,
             is_fake_ ? " of a fake, means nothing" : "", figure.dtype,
             figure.ranks ? std::to_string(figure.ranks) : "",
             figure.bytes ? muster::ipc::bytes_text(figure.bytes) : "", figure.median_us, figure.p99_us,
             figure.gbps == 0 ? "" : fmt::format("{:.1f}", figure.gbps), share, goal);
  std::fflush(stdout);
  if (!json_.is_open()) return;
  muster::ipc::JsonWriter json;
  json.begin_object().field("device", device_).field("fake", is_fake_).field("what", figure.what);
  json.field("dtype", figure.dtype).field("ranks", figure.ranks).field("bytes", figure.bytes);
  json.field("median_us", figure.median_us).field("min_us", figure.min_us).field("p99_us", figure.p99_us);
  json.field("gbps", figure.gbps).field("share_of_copy", figure.share).end_object();
  json_ << json.text() << std::endl;
  if (!json_) throw std::runtime_error("can't write the figures");
}

void Report::leave_out(const std::string& what, const std::string& why) { fmt::print("left out: {}: {}\n", what, why); }

}  // namespace bench
