#include "nccl.hpp"

#include <array>
#include <cstddef>
#include <utility>

#include "gpu/nccl_config.hpp"

namespace conformance {
namespace {

Rank*& rank_of_thread() {
  thread_local Rank* rank = nullptr;
  return rank;
}

class KeptMemory {
 public:
  KeptMemory() { kept_memory() = &addresses_; }
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;
  ~KeptMemory() {
    kept_memory() = nullptr;
    for (const auto address : addresses_) CU(cuMemFree)(address);
  }

 private:
  std::vector<CUdeviceptr> addresses_;
};

}  // namespace

std::vector<CUdeviceptr>*& kept_memory() {
  thread_local std::vector<CUdeviceptr>* addresses = nullptr;
  return addresses;
}

void give_up_rank() {
  auto* const rank = std::exchange(rank_of_thread(), nullptr);
  if (rank != nullptr) NC(ncclCommAbort)(std::exchange(rank->comm, nullptr));
}

ncclConfig_t* make_config(bool blocking) {
  // NCCL reads as many bytes as the size in it says, which may be more or fewer than this program's header has.
  thread_local musterd::gpu::nccl::Config config;
  config = musterd::gpu::nccl::make_config(nccl_version());
  config.blocking = blocking ? 1 : 0;
  return reinterpret_cast<ncclConfig_t*>(&config);
}

void run_threads(int ranks, const std::function<void(int)>& function) {
  std::vector<std::string> failures(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      try {
        function(rank);
      } catch (const std::exception& failure) {
        failures[static_cast<std::size_t>(rank)] = failure.what();
      }
    });
  for (auto& thread : threads) thread.join();
  for (int rank = 0; rank < ranks; ++rank) {
    const auto& failure = failures[static_cast<std::size_t>(rank)];
    if (!failure.empty()) FAIL_CHECK("rank " << rank << ": " << failure);
  }
}

void finalize_and_destroy(ncclComm_t comm) {
  MUST_NC(settled(comm, NC(ncclCommFinalize)(comm)));
  MUST_NC(NC(ncclCommDestroy)(comm));
}

void run_ranks(int ranks, Mode mode, const std::function<void(Rank&)>& function) {
  REQUIRE(CU(cuInit)(0) == CUDA_SUCCESS);
  const auto id = unique_id();
  Milestone begun;
  run_threads(ranks, [&](int number) {
    OnDevice on(number);
    const KeptMemory kept;
    Rank rank{on, number, ranks};
    rank_of_thread() = &rank;
    const auto result = NC(ncclCommInitRankConfig)(&rank.comm, ranks, id, number, make_config(mode == Mode::blocking));
    const auto state = settled(rank.comm, result);
    begun.reach();
    MUST_NC(state);
    begun.wait(ranks);
    function(rank);
    if (rank.comm != nullptr) finalize_and_destroy(rank.comm);
    rank_of_thread() = nullptr;
  });
}

}  // namespace conformance
