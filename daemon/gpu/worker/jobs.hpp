// The jobs of a GPU's worker: what was asked for, in parts, and what runs on the GPU. Each job has a place in one of a
// few streams, and an event that says when it is over.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <vector>

#include <muster/result.hpp>

#include "gpu/cuda.hpp"
#include "gpu/worker/kernels.hpp"
#include "gpu/worker/nccl_thread.hpp"
#include "gpu/worker/segments.hpp"
#include "gpu/worker_frames.hpp"

namespace musterd::gpu {

class Jobs {
 public:
  using Ended = std::function<void(std::uint64_t job, const muster::Result<void>& outcome)>;
  /// `ended` is called when nothing of a job can touch memory any more.
  Jobs(const cuda::Driver& driver, cuda::Device device, const DeviceSegments& segments, NcclThread& nccl, Ended ended);
  Jobs(const Jobs&) = delete;
  Jobs& operator=(const Jobs&) = delete;
  ~Jobs();

  /// Makes the streams. Must come first.
  [[nodiscard]] muster::Result<void> open();
  /// A part of a job. The job begins with its last part.
  void add(const wire::Job& part);
  /// The exchange of a job has ended.
  void exchanged(const ExchangeEnd& end);
  /// Looks which jobs are over.
  void poll();
  /// Whether there are jobs that poll() looks at.
  [[nodiscard]] bool busy() const;
  /// Why nothing works in this context any more, once that is so: the process has to be replaced.
  [[nodiscard]] const std::optional<muster::Error>& lost() const { return lost_; }

 private:
  /// The parts of a job that have come.
  struct Parts {
    std::uint64_t job = 0;
    std::vector<wire::Place> inputs;
    std::vector<wire::Place> outputs;
    std::vector<wire::Fold> folds;
    std::vector<wire::Copy> copies;
    std::vector<wire::Exchange> exchanges;
    std::vector<wire::Transfer> transfers;
    std::vector<wire::Place> last_inputs;
    std::vector<wire::Fold> last_folds;
    std::uint64_t communicator = 0;
    std::uint32_t rank = 0;
  };
  struct Running {
    std::uint64_t job = 0;
    cuda::Event event = nullptr;
    muster::Result<void> outcome;     ///< of what was begun
    std::vector<PinnedTable> tables;  ///< that its launches read
    bool is_exchanging = false;       ///< then the thread of NCCL says how it ends
  };
  void begin(const Parts& whole);
  [[nodiscard]] muster::Result<void> enqueue(const Parts& whole, cuda::Stream stream, std::vector<PinnedTable>& tables);
  [[nodiscard]] muster::Result<kernels::Launch> fold(const Parts& whole, const std::vector<wire::Place>& from,
                                                     const wire::Fold& fold);
  [[nodiscard]] muster::Result<kernels::Launch> copies(const Parts& whole);
  [[nodiscard]] muster::Result<JobExchange> exchange(const Parts& whole);
  [[nodiscard]] muster::Result<ExchangeStep> step(const Parts& whole, const wire::Exchange& exchange) const;
  [[nodiscard]] muster::Result<cuda::Address> output_address(const Parts& whole, std::uint32_t output,
                                                             std::uint64_t offset, std::uint64_t bytes) const;
  [[nodiscard]] muster::Result<void> checked(const char* call, cuda::Status status);

  static constexpr std::size_t streams_count = 4;
  const cuda::Driver& driver_;
  const DeviceSegments& segments_;
  NcclThread& nccl_;
  Kernels kernels_;
  Ended ended_;
  std::array<cuda::Stream, streams_count> streams_{};
  std::size_t next_stream_ = 0;
  Parts parts_;
  std::list<Running> running_;
  std::optional<muster::Error> lost_;
};

}  // namespace musterd::gpu
