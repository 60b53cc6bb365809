// All GPUs of this node: each with its worker's process, its memory and its lane, and the lane over several.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <muster/device.hpp>

#include "base/time.hpp"
#include "gpu/control/gpu.hpp"
#include "gpu/control/gpus_lane.hpp"
#include "gpu/process/find_gpus.hpp"
#include "gpu/process/worker_process.hpp"
#include "memory/backing.hpp"

namespace musterd::gpu {

class Gpus {
 public:
  /// The workers are started when they are needed, as `program` with its arguments. The loop and the program's file
  /// must outlive this.
  Gpus(boost::asio::io_context& loop, std::span<const GpuFacts> found, const Program& program,
       const DeviceMemory::Post& post);
  ~Gpus();

  /// Adds the memory of each GPU to what a node makes segments of. If there are GPUs, memory of the host serves as
  /// pinned memory, too: clients register their mappings of it with CUDA.
  [[nodiscard]] Backings with(Backings backings);
  /// What works on these GPUs together. Null if one of them is not here.
  [[nodiscard]] Lane* lane(std::span<const muster::Device> devices);
  void tick(TimePoint now);
  [[nodiscard]] std::optional<TimePoint> next_deadline() const;

 private:
  struct One {
    One(boost::asio::io_context& loop, const GpuFacts& facts, const Program& program, const DeviceMemory::Post& post);
    std::string name;
    WorkerProcess worker;
    Gpu gpu;
  };
  [[nodiscard]] GpuSet all() const;
  std::vector<std::unique_ptr<One>> gpus_;
  GpusLane over_several_;
};

}  // namespace musterd::gpu
