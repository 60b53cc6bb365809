#include "gpu_team.hpp"

#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <utility>

#include "figures.hpp"

namespace bench {

namespace {

using musterd::SegmentMemoryPtr;

std::string daemon_beside_this() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "musterd").string();
}

}  // namespace

GpuTeam::GpuTeam()
    : program_{daemon_beside_this(), {"musterd"}},
      found_(musterd::gpu::find_gpus(program_.path, {"musterd", "--gpu-probe-driver"}, std::chrono::minutes(1)).gpus),
      gpus_(loop_, found_, program_, [this](musterd::Errand errand) { errands_.push_back(std::move(errand)); }),
      backings_(gpus_.with(host_)) {}

std::vector<double> GpuTeam::allreduce(std::uint64_t bytes, unsigned rounds) {
  musterd::Job job;
  musterd::Exchange exchange;
  exchange.count = bytes / sizeof(float);
  job.work.exchanges.push_back(exchange);
  std::vector<SegmentMemoryPtr> kept;
  for (const auto& facts : found_) {
    const auto output = static_cast<std::uint32_t>(job.outputs.size());
    const auto& from = kept.emplace_back(make(facts.device, bytes));
    job.work.parts.push_back({{from.get(), 0}, output, 0});
    const auto& to = kept.emplace_back(make(facts.device, bytes));
    job.outputs.push_back({to.get(), 0});
    job.devices.push_back(facts.device);
  }
  std::vector<double> times;
  for (unsigned round = 0; round <= rounds; ++round) {
    const auto begin = Clock::now();
    run(job);
    if (round > 0) times.push_back(us_since(begin));  // the first one joins the GPUs
  }
  return times;
}

SegmentMemoryPtr GpuTeam::make(muster::Device device, std::uint64_t bytes) {
  const auto& [backing, limits] = *backings_.find(device);
  const std::uint64_t unit = limits.granularity_bytes;
  auto made = backing->create({musterd::SegmentId{++last_segment_}, (bytes + unit - 1) / unit * unit,
                               musterd::SegmentSpec::Writer::client, false});
  if (!made) throw std::runtime_error(made.error().describe());
  auto memory = std::move(*made);
  run_until([&] { return memory->descriptor() >= 0 || memory->is_lost(); });
  if (memory->is_lost()) throw std::runtime_error("a worker could make no memory");
  return memory;
}

void GpuTeam::run(const musterd::Job& like) {
  std::optional<muster::Result<void>> outcome;
  musterd::Job job = like;
  job.id = ++last_job_;
  job.ended = [&outcome](const musterd::JobEnd& end) { outcome = end.outcome; };
  auto* const lane = gpus_.lane({like.devices.begin(), like.devices.end()});
  lane->start(std::move(job), Clock::now() + std::chrono::minutes(1));
  run_until([&] { return outcome.has_value(); });
  if (!*outcome) throw std::runtime_error(outcome->error().describe());
}

template <class Done>
void GpuTeam::run_until(Done done) {
  const auto until = Clock::now() + std::chrono::minutes(1);
  while (!done()) {
    if (Clock::now() > until) throw std::runtime_error("the workers did not answer within a minute");
    loop_.restart();
    loop_.run_one_for(std::chrono::milliseconds(1));
    for (auto& posted : std::exchange(errands_, {}))
      for (const auto& function : posted) function();
    gpus_.tick(Clock::now());
  }
}

}  // namespace bench
