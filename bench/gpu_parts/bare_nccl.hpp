// An allreduce by NCCL alone, without anything of Muster's but the tables of the calls.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/nccl.hpp"

namespace bench {

/// Times of rounds of one size, in microseconds.
using Times = std::vector<double>;

/// One thread for each GPU calls NCCL. For each size the times of `rounds`, each until the last GPU is done. Ends the
/// process if a call fails or a result is wrong, as the other threads would wait for ever.
[[nodiscard]] std::vector<Times> bare_nccl(const musterd::gpu::nccl::Nccl& nccl, int gpus,
                                           std::span<const std::uint64_t> sizes, unsigned rounds);

}  // namespace bench
