#include "bare_nccl.hpp"

#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <cstdio>
#include <stdexcept>
#include <thread>

#include <fmt/format.h>

#include "device.hpp"
#include "figures.hpp"
#include "gpu/nccl_config.hpp"

namespace bench {

namespace {

namespace nccl = musterd::gpu::nccl;

constexpr unsigned one_as_float = 0x3f80'0000;

class Rank {
 public:
  Rank(const nccl::Nccl& nccl, int rank, int ranks, const nccl::UniqueId& id)
      : nccl_(nccl), ranks_(ranks), device_(rank) {
    auto config = nccl::make_config(nccl.version);
    config.blocking = 1;
    must("ncclCommInitRankConfig", nccl_.comm_init_rank_config(&communicator_, ranks, id, rank, &config));
  }
  ~Rank() { nccl_.comm_destroy(communicator_); }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  /// What each of the rounds took here.
  [[nodiscard]] Times run(std::uint64_t bytes, unsigned rounds, std::barrier<>& together) {
    const auto from = device_.memory(bytes);
    const auto to = device_.memory(bytes);
    const std::size_t count = bytes / sizeof(float);
    device_.must("cuMemsetD32Async",
                 device_.driver().memset_d32_async(from->address(), one_as_float, count, device_.stream()));
    device_.wait();
    Times times;
    for (unsigned round = 0; round <= rounds; ++round) {
      together.arrive_and_wait();
      const auto begin = Clock::now();
      must("ncclAllReduce",
           nccl_.all_reduce(pointer(from->address()), pointer(to->address()), count, nccl::DataType::float32,
                            nccl::ReduceOp::sum, communicator_, device_.stream()));
      device_.wait();
      if (round > 0) times.push_back(us_since(begin));  // the first one joins the GPUs
    }
    check(to->address(), count);
    return times;
  }

 private:
  static void* pointer(cuda::Address address) {
    return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
  }
  void must(const char* call, nccl::Status status) const {
    if (status != nccl::Status::success)
      throw std::runtime_error(fmt::format("{} failed: {}", call, nccl_.get_error_string(status)));
  }
  void check(cuda::Address address, std::size_t count) const {
    std::vector<float> result(count);
    device_.must("cuMemcpyDtoHAsync",
                 device_.driver().memcpy_dtoh_async(result.data(), address, count * sizeof(float), device_.stream()));
    device_.wait();
    const auto expected = static_cast<float>(ranks_);
    if (std::ranges::any_of(result, [&](float value) { return value != expected; }))
      throw std::runtime_error("NCCL's sum is wrong");
  }

  const nccl::Nccl& nccl_;
  int ranks_;
  Device device_;
  nccl::Communicator communicator_ = nullptr;
};

}  // namespace

std::vector<Times> bare_nccl(const nccl::Nccl& nccl, int gpus, std::span<const std::uint64_t> sizes, unsigned rounds) {
  nccl::UniqueId id{};
  if (const auto status = nccl.get_unique_id(&id); status != nccl::Status::success)
    throw std::runtime_error(fmt::format("ncclGetUniqueId failed: {}", nccl.get_error_string(status)));
  std::barrier<> together(gpus);
  std::vector<std::vector<Times>> of_ranks(static_cast<std::size_t>(gpus));
  const auto run = [&](int number) {
    try {
      Rank rank(nccl, number, gpus, id);
      for (const auto bytes : sizes)
        of_ranks[static_cast<std::size_t>(number)].push_back(rank.run(bytes, rounds, together));
    } catch (const std::exception& error) {
      fmt::print(stderr, "gpu_bench: {}\n", error.what());
      ::_exit(1);
    }
  };
  {
    std::vector<std::jthread> threads;
    threads.reserve(static_cast<std::size_t>(gpus));
    for (int number = 0; number < gpus; ++number) threads.emplace_back(run, number);
  }
  auto slowest = std::move(of_ranks.front());
  for (const auto& of_rank : of_ranks)
    for (std::size_t size = 0; size < of_rank.size(); ++size)
      std::ranges::transform(slowest[size], of_rank[size], slowest[size].begin(), std::ranges::max);
  return slowest;
}

}  // namespace bench
