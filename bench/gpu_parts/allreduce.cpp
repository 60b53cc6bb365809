// An allreduce over all GPUs: what Muster's workers add to what NCCL takes.
#include <algorithm>
#include <string>
#include <vector>

#include "bare_nccl.hpp"
#include "gpu_team.hpp"
#include "parts.hpp"

namespace bench {

void measure_allreduce(const Device& device, const Effort& effort, Report& report) {
  const std::string what = "allreduce";
  const int gpus = device.count();
  if (gpus < 2) return report.leave_out(what, "there is one GPU, and it takes two");
  const auto [search, nccl] = musterd::gpu::open_nccl(musterd::gpu::nccl_candidates({}));
  if (!nccl) return report.leave_out(what, musterd::gpu::nccl_error(search)->message());
  std::vector<std::uint64_t> sizes;
  for (const auto bytes : effort.allreduce_sizes)
    if (bytes < device.free_bytes() / 8) sizes.push_back(bytes);
  const auto add = [&](std::string_view name, std::uint64_t bytes, const std::vector<double>& times) {
    // What goes into each GPU and out of it, whichever way NCCL goes.
    const auto ranks = static_cast<std::uint64_t>(gpus);
    const Figure figure{.what = name, .dtype = "float32", .ranks = static_cast<unsigned>(gpus), .bytes = bytes};
    report.add(summarized(figure, times, 2 * (ranks - 1) * bytes / ranks));
  };
  const unsigned rounds = 10 * effort.rounds;
  const auto alone = bare_nccl(*nccl, gpus, sizes, rounds);
  GpuTeam team;
  for (std::size_t size = 0; size < sizes.size(); ++size) {
    add("allreduce by NCCL", sizes[size], alone[size]);
    add("allreduce by workers", sizes[size], team.allreduce(sizes[size], rounds));
  }
}

}  // namespace bench
