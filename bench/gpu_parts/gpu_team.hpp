// All GPUs as the daemon's control thread has them: their workers, and the lane over them.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "gpu/process/gpus.hpp"
#include "memory/memfd_backing.hpp"

namespace bench {

class GpuTeam {
 public:
  GpuTeam();

  [[nodiscard]] std::size_t size() const { return found_.size(); }
  /// What an allreduce of an array on each GPU takes, from the control thread's call to the answer: `rounds` times, in
  /// microseconds.
  [[nodiscard]] std::vector<double> allreduce(std::uint64_t bytes, unsigned rounds);

 private:
  [[nodiscard]] musterd::SegmentMemoryPtr make(muster::Device device, std::uint64_t bytes);
  void run(const musterd::Job& like);
  template <class Done>
  void run_until(Done done);

  boost::asio::io_context loop_;
  std::vector<musterd::Errand> errands_;
  musterd::gpu::Program program_;
  std::vector<musterd::gpu::GpuFacts> found_;
  musterd::gpu::Gpus gpus_;
  musterd::MemfdBacking host_;
  musterd::Backings backings_;
  std::uint32_t last_segment_ = 0;
  musterd::JobId last_job_ = 0;
};

}  // namespace bench
