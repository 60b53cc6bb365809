// Several GPUs and the lane over them, with workers that say what a test wants them to say.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpu/control/gpus_lane.hpp"
#include "test_port.hpp"

namespace musterd::gpu::testing {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct GpusWorld {
  static constexpr std::uint64_t unit = 2 << 20;

  struct One {
    One(std::uint8_t index, Errand& errands)
        : gpu({.device = muster::Device::cuda(index), .limits = {unit, 1 << 30}}, port,
              [&errands](Errand errand) { errands.splice(errands.end(), errand); }) {}
    TestPort port;
    Gpu gpu;
    SegmentMemoryPtr memory;
  };
  explicit GpusWorld(std::size_t count = 3, GpusLaneSettings settings = {}) {
    for (std::size_t i = 0; i < count; ++i)
      gpus.push_back(std::make_unique<One>(static_cast<std::uint8_t>(i), errands));
    GpuSet members;
    for (const auto& one : gpus) members.push_back(&one->gpu);
    lane = std::make_unique<GpusLane>(settings, members);
    for (std::size_t i = 0; i < count; ++i) {
      gpus[i]->memory = gpus[i]->gpu.create({SegmentId{static_cast<std::uint32_t>(10 + i)}, unit, {}, false}).value();
      ready(i);
      std::vector<muster::ipc::Fd> fds;
      fds.push_back(some_descriptor());
      const auto id = static_cast<std::uint32_t>(10 + i);
      say(
          i, wire::Body_Made, [&](auto& fbb) { return wire::CreateMade(fbb, id); }, std::move(fds));
    }
    forget_told();
  }
  ~GpusWorld() {
    for (const auto& one : gpus) one->memory.reset();
  }

  // ---- what workers say ----
  template <class MakeBody>
  void say(std::size_t gpu, wire::Body type, const MakeBody& make_body, std::vector<muster::ipc::Fd> fds = {}) {
    gpus[gpu]->gpu.received(worker_frame(type, make_body), std::move(fds), now);
  }
  void ready(std::size_t gpu) {
    say(gpu, wire::Body_Ready, [](auto& fbb) { return wire::CreateReadyDirect(fbb, "GPU", 1 << 30); });
  }
  void named(std::size_t gpu, CommunicatorId id) {
    const std::vector<std::uint8_t> bytes(128, 7);
    say(gpu, wire::Body_Named, [&](auto& fbb) { return wire::CreateNamedDirect(fbb, id, &bytes); });
  }
  void joined(std::size_t gpu, CommunicatorId id) {
    say(gpu, wire::Body_Joined, [&](auto& fbb) { return wire::CreateJoined(fbb, id); });
  }
  void left(std::size_t gpu, CommunicatorId id) {
    say(gpu, wire::Body_Left, [&](auto& fbb) { return wire::CreateLeft(fbb, id); });
  }
  void broken(std::size_t gpu, CommunicatorId id, const std::string& why) {
    say(gpu, wire::Body_Broken, [&](auto& fbb) {
      const auto told = add_why(fbb, {muster::Code::failed, why, "hint"});
      return wire::CreateBroken(fbb, id, told);
    });
  }
  void ended(std::size_t gpu, JobId id, const std::string& why = {}) {
    say(gpu, wire::Body_Ended, [&](auto& fbb) {
      const auto told =
          why.empty() ? flatbuffers::Offset<wire::Why>() : add_why(fbb, {muster::Code::failed, why, "hint"});
      return wire::CreateEnded(fbb, id, told);
    });
  }
  void dies(std::size_t gpu) { gpus[gpu]->gpu.worker_ended("it was ended by SIGKILL", now); }

  // ---- what the node does ----
  /// An allreduce of what lies on each of these GPUs.
  void start(JobId id, const std::vector<std::size_t>& over, UserId user = 0) {
    Job job;
    job.id = id;
    job.process.user = user;
    Exchange exchange;
    exchange.count = 4;
    for (const auto gpu : over) {
      const auto output = static_cast<std::uint32_t>(job.outputs.size());
      job.devices.push_back(gpus[gpu]->gpu.device());
      job.outputs.push_back({gpus[gpu]->memory.get(), 64});
      job.work.parts.push_back({{gpus[gpu]->memory.get(), 128}, output, 0});
    }
    job.work.exchanges.push_back(exchange);
    job.ended = [this, id](const JobEnd& end) {
      ends[id].push_back(end.outcome ? "done" : end.outcome.error().message());
      quiet_at_end[id] = end.quiet;
    };
    job.quiet = [this, id] { ++quiet[id]; };
    lane->start(std::move(job), now + seconds(100));
  }
  /// As the server does: everything that is due, whoever made it so.
  void tick(Duration passed = {}) {
    now += passed;
    for (int i = 0; i < 10; ++i) {
      for (const auto& function : std::exchange(errands, {})) function();
      for (const auto& one : gpus) one->gpu.tick(now);
      lane->tick(now);
      if (const auto next = lane->next_deadline(); !next || *next > now) return;
    }
    FAIL("the lane is never at rest");
  }
  /// All members join the communicator of these GPUs.
  void make(CommunicatorId id, const std::vector<std::size_t>& over) {
    tick();
    named(over.front(), id);
    for (const auto gpu : over) joined(gpu, id);
  }
  void end_all(JobId id, const std::vector<std::size_t>& over) {
    for (const auto gpu : over) ended(gpu, id);
  }
  void forget_told() {
    for (const auto& one : gpus) one->port.take();
  }
  [[nodiscard]] std::vector<wire::Body> told(std::size_t gpu) { return types(gpus[gpu]->port.take()); }

  TimePoint now{std::chrono::hours(1)};
  Errand errands;  ///< all that were posted
  std::vector<std::unique_ptr<One>> gpus;
  std::unique_ptr<GpusLane> lane;
  std::map<JobId, std::vector<std::string>> ends;
  std::map<JobId, bool> quiet_at_end;
  std::map<JobId, int> quiet;
};

}  // namespace musterd::gpu::testing
