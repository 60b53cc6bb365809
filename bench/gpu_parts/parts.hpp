// What is measured, part by part.
#pragma once

#include <cstdint>
#include <span>

#include "device.hpp"
#include "figures.hpp"

namespace bench {

/// How much is measured. The small one shows that everything works.
struct Effort {
  std::span<const std::uint64_t> sizes;            ///< of one array, rising
  std::span<const std::uint64_t> allreduce_sizes;  ///< the same, where several GPUs reduce
  unsigned rounds = 0;                             ///< of each figure
  double round_us = 0;  ///< launches follow each other for about so long, as a host's clock is coarse
};

/// The kernels, against the rate of a copy within the GPU. Throws if a result is wrong.
void measure_folds(const Device& device, const Effort& effort, Report& report);
/// Jobs and memory as the daemon's control thread gets them from a worker process.
void measure_worker(const Device& device, const Effort& effort, Report& report);
/// What it takes another process to map memory whose descriptor it has got.
void measure_imports(const Device& device, const Effort& effort, Report& report);
/// An allreduce over all GPUs, by NCCL alone and by Muster's workers. Leaves it out where there is one GPU, or no NCCL.
/// Throws if a result is wrong.
void measure_allreduce(const Device& device, const Effort& effort, Report& report);

}  // namespace bench
