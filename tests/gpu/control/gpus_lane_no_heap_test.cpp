// The heap ends at some allocation while ops over several GPUs begin, run and fail, and while memory is made. Every job
// still ends, once, and is quiet once; who waits for memory is told once. It is an executable of its own, whose
// operator new can be told to fail.
#include <catch2/catch.hpp>

#include <array>
#include <cstdlib>
#include <new>

#include "gpus_world.hpp"
#include "session/failing_new.hpp"

namespace {

/// It counts and fails only while the lane works.
struct Heap {
  bool armed = false;
  std::size_t allocations = 0;
  std::size_t first_to_fail = SIZE_MAX;
  std::size_t how_many_fail = 1;
} heap;

}  // namespace

void* musterd::testing::allocate(std::size_t bytes) {
  if (heap.armed && ++heap.allocations >= heap.first_to_fail &&
      heap.allocations - heap.first_to_fail < heap.how_many_fail)
    throw std::bad_alloc();
  void* const memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void musterd::testing::given_back(void* /*memory*/) noexcept {}

using namespace musterd;
using namespace musterd::gpu;
using namespace musterd::gpu::testing;

namespace {

/// What came of the jobs, without a byte of the heap.
struct Outcomes {
  struct One {
    int dropped = 0;  ///< by a start() that threw
    int ended = 0;
    int quiet = 0;
  };
  std::array<One, 5> jobs;
  std::array<One, 4> leases;  ///< `ended`: who waits was told
};

class Scenario {
 public:
  ~Scenario() {
    for (auto& memory : memory_) memory.reset();
  }
  Scenario() = default;
  Scenario(const Scenario&) = delete;
  Scenario& operator=(const Scenario&) = delete;

  void run() {
    lease(0);
    lease(1);
    said(0, made(0), true);
    said(0, not_made(1));
    lease(2);
    drop(2);
    said(0, made(2), true);
    drop(0);
    lease(3);
    start(1);
    tick();
    said(0, named(1));
    said(0, joined(1));
    said(1, joined(1));
    start(2);
    said(0, ended(1));
    said(1, ended(1));
    world_.lane->cancel(2);
    tick(seconds(1));
    tick(seconds(1));
    start(3);
    said(0, ended(2));
    said(0, left(1));
    said(1, left(1));
    said(1, ended(2));
    tick();
    said(0, named(2));
    said(0, joined(2));
    said(1, broken(2));
    start(4);
    tick();
    die(1);
    tick(seconds(20));
    tick(seconds(20));
  }
  void check() {
    // A job may wait for a communicator that is to be made only now.
    for (int round = 0; round < 4; ++round) {
      for (std::size_t gpu = 0; gpu < 2; ++gpu) world_.dies(gpu);
      world_.tick(seconds(100));
    }
    CHECK(world_.lane->jobs() == 0);
    CHECK(world_.lane->communicators().count() == 0);
    for (std::size_t lease = 0; lease < outcomes_.leases.size(); ++lease) {
      INFO("lease " << lease);
      const auto& [dropped, ended, quiet] = outcomes_.leases[lease];
      CHECK(dropped + ended == 1);
    }
    for (auto& memory : memory_) memory.reset();
    world_.tick();
    for (std::size_t gpu = 0; gpu < 2; ++gpu) CHECK(world_.gpus[gpu]->gpu.segments() == 1);  // those of the world
    for (std::size_t id = 1; id < outcomes_.jobs.size(); ++id) {
      INFO("job " << id);
      CHECK(outcomes_.jobs[id].ended + outcomes_.jobs[id].dropped == 1);
      CHECK(outcomes_.jobs[id].quiet == outcomes_.jobs[id].ended);
    }
  }

 private:
  struct Armed {
    Armed() { heap.armed = true; }
    Armed(const Armed&) = delete;
    Armed& operator=(const Armed&) = delete;
    ~Armed() { heap.armed = false; }
  };

  void start(JobId id) {
    Job job;
    job.id = id;
    job.work.exchanges.emplace_back();
    for (std::size_t gpu = 0; gpu < 2; ++gpu) {
      job.devices.push_back(world_.gpus[gpu]->gpu.device());
      job.outputs.push_back({world_.gpus[gpu]->memory.get(), 64});
      job.work.parts.push_back({{world_.gpus[gpu]->memory.get(), 128}, static_cast<std::uint32_t>(gpu), 0});
    }
    job.work.transfers = {{.source = {.output = 0}, .output = 1, .from = 0, .to = 1, .offset = 64, .bytes = 64}};
    job.work.last_inputs = {{.output = 1}, {.output = 1, .offset = 64}};
    job.work.last_folds = {{.output = 1, .count = 16, .ranks = 2}};
    auto& outcome = outcomes_.jobs[id];
    job.ended = [&outcome](const JobEnd& end) { ++outcome.ended, outcome.quiet += end.quiet ? 1 : 0; };
    job.quiet = [&outcome] { ++outcome.quiet; };
    try {
      const Armed armed;
      world_.lane->start(std::move(job), world_.now + seconds(100));
    } catch (const std::bad_alloc&) {
      ++outcome.dropped;
    }
  }
  static SegmentId segment_of(std::size_t lease) { return {static_cast<std::uint32_t>(20 + lease)}; }
  void lease(std::size_t lease) {
    auto& outcome = outcomes_.leases[lease];
    try {
      const Armed armed;
      auto made = world_.gpus[0]->gpu.create({.id = segment_of(lease), .bytes = GpusWorld::unit});
      if (made) memory_[lease] = std::move(*made);
      if (memory_[lease] && memory_[lease]->when_made([&outcome](const auto&) { ++outcome.ended; })) return;
      ++outcome.dropped;
    } catch (const std::bad_alloc&) {
      ++outcome.dropped;
    }
  }
  /// Nobody needs the memory any more.
  void drop(std::size_t lease) {
    auto& [dropped, ended, quiet] = outcomes_.leases[lease];
    if (dropped + ended == 0) ++dropped;
    memory_[lease].reset();
    for (const auto& function : std::exchange(world_.errands, {})) {
      const Armed armed;
      function();
    }
  }
  void tick(Duration passed = {}) {
    world_.now += passed;
    for (int i = 0; i < 10; ++i) try {
        const Armed armed;
        for (const auto& one : world_.gpus) one->gpu.tick(world_.now);
        world_.lane->tick(world_.now);
      } catch (const std::bad_alloc&) {
        // As in the server, the next tick tries again.
      }
  }
  /// A frame that nobody had the memory to hear ends its worker.
  void said(std::size_t gpu, const WorkerFrame& frame, bool with_descriptor = false) {
    std::vector<muster::ipc::Fd> fds;
    if (with_descriptor) fds.push_back(some_descriptor());
    try {
      const Armed armed;
      world_.gpus[gpu]->gpu.received(frame, std::move(fds), world_.now);
    } catch (const std::bad_alloc&) {
      die(gpu);
    }
  }
  void die(std::size_t gpu) {
    for (int i = 0; i < 10; ++i) try {
        const std::string how = "it was ended by SIGKILL";
        const Armed armed;
        return world_.gpus[gpu]->gpu.worker_ended(how, world_.now);
      } catch (const std::bad_alloc&) {
        // As by the port, it is told again.
      }
  }

  static WorkerFrame made(std::size_t lease) {
    const auto segment = segment_of(lease).value;
    return worker_frame(wire::Body_Made, [&](auto& fbb) { return wire::CreateMade(fbb, segment); });
  }
  static WorkerFrame not_made(std::size_t lease) {
    return worker_frame(wire::Body_NotMade, [&](auto& fbb) {
      const auto why =
          add_why(fbb, {muster::Code::out_of_memory, "a reason that is too long to lie inside of a string", ""});
      return wire::CreateNotMade(fbb, segment_of(lease).value, why);
    });
  }
  static WorkerFrame named(CommunicatorId id) {
    const std::vector<std::uint8_t> bytes(128, 7);
    return worker_frame(wire::Body_Named, [&](auto& fbb) { return wire::CreateNamedDirect(fbb, id, &bytes); });
  }
  static WorkerFrame joined(CommunicatorId id) {
    return worker_frame(wire::Body_Joined, [&](auto& fbb) { return wire::CreateJoined(fbb, id); });
  }
  static WorkerFrame left(CommunicatorId id) {
    return worker_frame(wire::Body_Left, [&](auto& fbb) { return wire::CreateLeft(fbb, id); });
  }
  static WorkerFrame broken(CommunicatorId id) {
    return worker_frame(wire::Body_Broken, [&](auto& fbb) {
      const auto why = add_why(fbb, {muster::Code::failed, "a reason that is too long to lie inside of a string", ""});
      return wire::CreateBroken(fbb, id, why);
    });
  }
  static WorkerFrame ended(JobId id) {
    return worker_frame(wire::Body_Ended, [&](auto& fbb) { return wire::CreateEnded(fbb, id, {}); });
  }

  GpusWorld world_{2};
  Outcomes outcomes_;
  std::array<SegmentMemoryPtr, 4> memory_;
};

}  // namespace

TEST_CASE("wherever the heap ends, each job over several GPUs ends once") {
  const auto how_many_fail = GENERATE(std::size_t{1}, std::size_t{3}, std::size_t{20});
  heap = {};
  {
    Scenario scenario;
    scenario.run();
    scenario.check();
  }
  const std::size_t allocations = heap.allocations;
  REQUIRE(allocations > 50);
  for (std::size_t first = 1; first <= allocations; ++first) {
    INFO("allocation " << first << " of " << allocations << " fails");
    heap = {};
    Scenario scenario;
    heap.first_to_fail = first;
    heap.how_many_fail = how_many_fail;
    scenario.run();
    heap.first_to_fail = SIZE_MAX;
    scenario.check();
  }
}
