// The thread of a GPU's worker that makes all calls of NCCL, in the order in which the daemon asks for them: all
// workers must make them in the same order. NCCL may hang in any call. Then this thread is lost; the worker goes on
// with everything else, until the daemon ends it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <muster/result.hpp>
#include <muster/types.hpp>

#include "gpu/cuda.hpp"
#include "gpu/nccl.hpp"
#include "gpu/worker/kernels.hpp"
#include "gpu/worker_frames.hpp"

namespace musterd::gpu {

/// One reduction of a job: what this GPU gives, and where its result goes.
struct ExchangeStep {
  static constexpr int everyone = -1;
  cuda::Address from = 0;
  cuda::Address to = 0;  ///< 0 if this rank gets no result
  std::uint64_t count = 0;
  muster::DType dtype = muster::DType::float32;
  muster::ReduceOp op = muster::ReduceOp::sum;
  int root = everyone;
  std::uint32_t divisor = 1;
};

/// Bytes that this GPU sends to another, or gets from it.
struct TransferStep {
  cuda::Address address = 0;
  std::uint64_t bytes = 0;
  std::uint32_t group = 0;  ///< those of a group, which follow each other, are begun together
  int peer = 0;
  bool sends = false;
};

/// What a job does between GPUs, in this order.
struct JobExchange {
  std::uint64_t job = 0;
  std::uint64_t communicator = 0;
  std::vector<ExchangeStep> steps;
  std::vector<TransferStep> transfers;
  std::vector<kernels::Launch> last;  ///< folds of what has been transferred
  cuda::Event after = nullptr;        ///< of the folds, which come first
};

/// How a job's exchange ended. Nothing of it can touch memory any more.
struct ExchangeEnd {
  std::uint64_t job = 0;
  muster::Result<void> outcome;
};

/// Lives as long as its process.
class NcclThread {
 public:
  struct Outside {
    std::function<void(const WorkerFrame&)> say;  ///< any thread: to the daemon
    std::function<void()> wake;                   ///< any thread: there is something for take_ended(), or lost()
  };
  NcclThread(const cuda::Driver& driver, cuda::Device device, NcclPlaces places, Outside outside);
  NcclThread(const NcclThread&) = delete;
  NcclThread& operator=(const NcclThread&) = delete;

  // What the daemon asks for: see worker.fbs. Never waits for NCCL.
  void name(std::uint64_t communicator);
  void join(std::uint64_t communicator, std::uint32_t ranks, std::uint32_t rank, std::span<const std::uint8_t> id);
  void leave(std::uint64_t communicator);
  void abort(std::uint64_t communicator);
  void exchange(JobExchange job);

  [[nodiscard]] std::vector<ExchangeEnd> take_ended();
  /// Why nothing works here any more, once that is so: the process has to be replaced.
  [[nodiscard]] std::optional<muster::Error> lost();

 private:
  struct Name {
    std::uint64_t communicator;
  };
  struct Join {
    std::uint64_t communicator;
    int ranks;
    int rank;
    std::vector<std::uint8_t> id;
  };
  struct Leave {
    std::uint64_t communicator;
  };
  using Item = std::variant<Name, Join, Leave, JobExchange>;
  using Items = std::list<Item>;
  struct Running {
    std::uint64_t job = 0;
    std::uint64_t communicator = 0;
    cuda::Event event = nullptr;
    muster::Result<void> outcome;
    std::vector<PinnedTable> tables;
  };
  struct Joined {
    nccl::Communicator handle = nullptr;
    std::uint64_t bytes = 0;  ///< of the GPU's memory, as the daemon was told
    bool is_broken = false;   ///< the daemon was told so
  };

  void add(Item item);

  // The thread of NCCL.
  void run();
  [[nodiscard]] Items next_item(std::chrono::microseconds patience);
  void handle(const Name& asked);
  void handle(const Join& asked);
  void handle(const Leave& asked);
  void handle(JobExchange& asked);
  [[nodiscard]] muster::Result<void> open();
  [[nodiscard]] muster::Result<void> make(const Join& asked);
  [[nodiscard]] muster::Result<void> enqueue(JobExchange& asked, std::vector<PinnedTable>& tables);
  [[nodiscard]] muster::Result<void> reduce(std::span<const ExchangeStep> steps, std::uint64_t communicator);
  [[nodiscard]] muster::Result<void> divide(const ExchangeStep& step, std::vector<PinnedTable>& tables);
  [[nodiscard]] muster::Result<void> transfer(std::span<const TransferStep> steps, std::uint64_t communicator);
  template <class Step, class Call>
  [[nodiscard]] muster::Result<void> together(const char* name, std::span<const Step> steps, std::uint64_t communicator,
                                              const Call& call);
  [[nodiscard]] muster::Result<void> launch(kernels::Launch& made, std::vector<PinnedTable>& tables);
  [[nodiscard]] muster::Result<void> settled(const char* call, std::uint64_t communicator, nccl::Status status);
  void tell_memory(std::uint64_t communicator);
  void look();
  void poll_running();
  void poll_errors();
  void abort_given_up();
  void abort_one(std::uint64_t communicator);
  void broken(std::uint64_t communicator, const muster::Error& why);
  void say_left(std::uint64_t communicator);
  void ended(std::uint64_t job, muster::Result<void> outcome);
  [[nodiscard]] muster::Result<void> checked(const char* call, cuda::Status status);
  void lose(const muster::Error& why);
  [[nodiscard]] muster::Error failed(const char* call, nccl::Status status) const;

  const cuda::Driver& driver_;
  NcclPlaces places_;
  Outside outside_;
  cuda::Context context_ = nullptr;

  std::mutex mutex_;
  std::condition_variable more_;
  Items items_;                          ///< under the mutex, as are the next three
  std::vector<std::uint64_t> given_up_;  ///< to be aborted, before all items
  std::vector<ExchangeEnd> ended_;
  std::optional<muster::Error> lost_;
  bool is_started_ = false;  ///< with the first item

  // Of the thread alone.
  std::unique_ptr<nccl::Nccl> nccl_;
  Kernels kernels_;
  cuda::Stream stream_ = nullptr;
  std::map<std::uint64_t, Joined> joined_;
  std::list<Running> running_;
};

}  // namespace musterd::gpu
