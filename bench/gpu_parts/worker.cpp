// What the daemon's control thread gets from a GPU's worker: the time from a call until the answer is there. The worker
// is the musterd that lies beside this program.
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "gpu/control/gpu.hpp"
#include "gpu/process/worker_process.hpp"
#include "parts.hpp"

namespace bench {

namespace {

using musterd::Place;
using musterd::SegmentMemoryPtr;
using std::chrono::minutes;

std::string daemon_beside_this() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "musterd").string();
}

/// The control side of GPU 0, in a loop of its own.
class Control {
 public:
  explicit Control(const Device& device)
      : worker_(loop_, {daemon_beside_this(), {"musterd", "--gpu-worker", "0"}},
                {.received =
                     [this](std::span<const std::byte> frame, std::vector<muster::ipc::Fd> fds) {
                       gpu_.received(frame, std::move(fds), Clock::now());
                     },
                 .ended =
                     [this](const std::string& how) {
                       ended_ = how;
                       gpu_.worker_ended(how, Clock::now());
                     }}),
        gpu_({.device = muster::Device::cuda(0), .limits = {device.granularity(), device.free_bytes()}}, worker_,
             [this](musterd::Errand errand) { errands_.push_back(std::move(errand)); }) {}

  [[nodiscard]] SegmentMemoryPtr make(std::uint64_t bytes) {
    auto made = gpu_.create({musterd::SegmentId{++last_segment_}, bytes, musterd::SegmentSpec::Writer::client, false});
    if (!made) throw std::runtime_error(made.error().describe());
    auto memory = std::move(*made);
    run_until([&] { return memory->descriptor() >= 0 || memory->is_lost(); });
    if (memory->is_lost()) throw std::runtime_error("a worker could make no memory");
    return memory;
  }

  void run(musterd::Work work, const Place& output) {
    std::optional<muster::Result<void>> outcome;
    musterd::Job job;
    job.id = ++last_job_;
    job.work = std::move(work);
    job.outputs.push_back(output);
    job.ended = [&outcome](const musterd::JobEnd& end) { outcome = end.outcome; };
    gpu_.start(std::move(job), Clock::now() + minutes(1));
    run_until([&] { return outcome.has_value(); });
    if (!*outcome) throw std::runtime_error(outcome->error().describe());
  }

 private:
  template <class Done>
  void run_until(Done done) {
    const auto until = Clock::now() + minutes(1);
    while (!done()) {
      if (ended_) throw std::runtime_error("the worker ended: " + *ended_);
      if (Clock::now() > until) throw std::runtime_error("the worker did not answer within a minute");
      loop_.restart();
      loop_.run_one_for(std::chrono::milliseconds(10));
      for (auto& posted : std::exchange(errands_, {}))
        for (const auto& function : posted) function();
      gpu_.tick(Clock::now());
    }
  }

  boost::asio::io_context loop_;
  std::vector<musterd::Errand> errands_;
  std::uint32_t last_segment_ = 0;
  musterd::JobId last_job_ = 0;
  std::optional<std::string> ended_;
  musterd::gpu::WorkerProcess worker_;
  musterd::gpu::Gpu gpu_;
};

musterd::Work fold_of(const SegmentMemoryPtr& one, const SegmentMemoryPtr& other, std::uint64_t bytes) {
  musterd::Work work;
  work.inputs.push_back(Place{one.get(), 0});
  work.inputs.push_back(Place{other.get(), 0});
  musterd::Fold fold;
  fold.count = bytes / sizeof(float);
  fold.ranks = 2;
  work.folds.push_back(fold);
  return work;
}

void measure_leases(Control& control, const Device& device, const Effort& effort, Report& report) {
  for (const auto bytes : effort.sizes) {
    if (bytes % device.granularity() != 0 || bytes > device.free_bytes() / 2) continue;
    std::vector<double> all;
    for (unsigned round = 0; round < effort.rounds; ++round) {
      const auto begin = Clock::now();
      const auto memory = control.make(bytes);
      all.push_back(us_since(begin));
    }
    report.add(summarized({.what = "lease", .bytes = bytes}, all));
  }
}

void measure_jobs(Control& control, const Device& device, const Effort& effort, Report& report) {
  constexpr std::uint64_t smallest = 1024;
  std::vector<std::uint64_t> sizes{smallest};
  for (const auto bytes : effort.sizes)
    if (bytes % device.granularity() == 0 && bytes < device.free_bytes() / 4) sizes.push_back(bytes);
  const std::uint64_t most = std::max(sizes.back(), device.granularity());
  const auto one = control.make(most);
  const auto other = control.make(most);
  const auto result = control.make(most);
  for (const auto bytes : sizes) {
    std::vector<double> all;
    const unsigned rounds = bytes == smallest ? 100 * effort.rounds : effort.rounds;
    for (unsigned round = 0; round <= rounds; ++round) {
      const auto begin = Clock::now();
      control.run(fold_of(one, other, bytes), {result.get(), 0});
      if (round > 0) all.push_back(us_since(begin));  // the first one loads the kernels
    }
    report.add(summarized({.what = "job", .dtype = "float32", .ranks = 2, .bytes = bytes}, all, 3 * bytes));
  }
}

}  // namespace

void measure_worker(const Device& device, const Effort& effort, Report& report) {
  const auto begin = Clock::now();
  Control control(device);
  static_cast<void>(control.make(device.granularity()));
  report.add(summarized({.what = "worker started"}, {us_since(begin)}));
  measure_leases(control, device, effort, report);
  measure_jobs(control, device, effort, report);
}

}  // namespace bench
