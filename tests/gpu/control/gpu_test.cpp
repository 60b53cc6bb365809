// A GPU as the control thread sees it, with a worker that says what the test wants it to say.
#include <catch2/catch.hpp>

#include <fcntl.h>

#include <deque>
#include <map>
#include <set>

#include "gpu/control/gpu.hpp"
#include "memory/segment_table.hpp"
#include "test_port.hpp"

using namespace musterd;
using namespace musterd::gpu;
using namespace musterd::gpu::testing;
using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;
using std::chrono::seconds;

namespace {

constexpr std::uint64_t unit = 2 << 20;

struct World {
  SegmentMemoryPtr create(std::uint32_t id, std::uint64_t bytes = unit) {
    auto made = gpu.create({SegmentId{id}, bytes, SegmentSpec::Writer::client, false});
    if (!made) FAIL(made.error().describe());
    return std::move(*made);
  }
  void say(wire::Body type, const auto& make_body, std::vector<ipc::Fd> fds = {}) {
    gpu.received(worker_frame(type, make_body), std::move(fds), now);
  }
  void ready() {
    say(wire::Body_Ready, [](auto& fbb) { return wire::CreateReadyDirect(fbb, "GPU", 1 << 30); });
  }
  void made(std::uint32_t id) {
    std::vector<ipc::Fd> fds;
    fds.push_back(some_descriptor());
    say(
        wire::Body_Made, [&](auto& fbb) { return wire::CreateMade(fbb, id); }, std::move(fds));
  }
  void not_made(std::uint32_t id, const Error& why) {
    say(wire::Body_NotMade, [&](auto& fbb) {
      const auto told = add_why(fbb, why);
      return wire::CreateNotMade(fbb, id, told);
    });
  }
  void ended(JobId id, std::optional<Error> why = {}) {
    say(wire::Body_Ended, [&](auto& fbb) {
      const auto told = why ? add_why(fbb, *why) : flatbuffers::Offset<wire::Why>();
      return wire::CreateEnded(fbb, id, told);
    });
  }
  /// Starts a job that copies one segment to another.
  void start(JobId id, const SegmentMemoryPtr& from, const SegmentMemoryPtr& to, std::size_t copies = 1) {
    Job job;
    job.id = id;
    job.outputs.push_back({to.get(), 64});
    for (std::size_t i = 0; i < copies; ++i) job.work.copies.push_back({0, i * 8, {from.get(), 128}, 8});
    job.ended = [this, id](const JobEnd& end) {
      CHECK(end.quiet);
      ends[id].push_back(end.outcome);
    };
    gpu.start(std::move(job), now + seconds(10));
  }
  void tick(Duration passed) {
    now += passed;
    gpu.tick(now);
  }
  /// Runs what was posted from elsewhere.
  void settle() {
    for (auto& posted : std::exchange(errands, {}))
      for (const auto& function : posted) function();
  }
  /// What when_made() says, now or later.
  std::optional<Result<void>>& watch(const SegmentMemoryPtr& memory) {
    auto& outcome = watched.emplace_back();
    const auto there = memory->when_made([&outcome](Result<void> made) { outcome = std::move(made); });
    if (!there) outcome = Result<void>(there.error());
    else if (*there) outcome = Result<void>();
    return outcome;
  }

  TimePoint now{std::chrono::hours(1)};
  std::deque<std::optional<Result<void>>> watched;
  std::map<JobId, std::vector<Result<void>>> ends;
  std::vector<Errand> errands;
  TestPort port;
  Gpu gpu{{.device = muster::Device::cuda(2), .limits = {unit, 1 << 30}}, port, [this](Errand errand) {
            errands.push_back(std::move(errand));
          }};
};

}  // namespace

TEST_CASE("what NCCL has of the memory counts until its communicator is left, or the worker ends") {
  World world;
  const auto memory = world.create(1);
  world.ready();
  const auto took = [&](CommunicatorId id, std::uint64_t bytes) {
    world.say(wire::Body_Took, [&](auto& fbb) { return wire::CreateTook(fbb, id, bytes); });
  };
  struct Deaf final : CommunicatorEvents {
    void named(const Gpu&, CommunicatorId, std::span<const std::uint8_t>) override {}
    void joined(const Gpu&, CommunicatorId) override {}
    void broken(const Gpu&, CommunicatorId, const Error&) override {}
    void left(const Gpu&, CommunicatorId) override {}
    void worker_gone(const Gpu&, const Error&) noexcept override {}
  } events;
  world.gpu.listen(events);
  CHECK(world.gpu.work_bytes() == 0);
  took(1, 100);
  took(2, 10);
  took(1, 300);
  CHECK(world.gpu.work_bytes() == 310);
  world.say(wire::Body_Left, [](auto& fbb) { return wire::CreateLeft(fbb, 1); });
  CHECK(world.gpu.work_bytes() == 10);
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  CHECK(world.gpu.work_bytes() == 0);
}

TEST_CASE("nobody starts a worker before somebody needs one") {
  World world;
  CHECK(world.gpu.state() == Gpu::State::none);
  CHECK_FALSE(world.gpu.next_deadline());
  const auto memory = world.create(1);
  CHECK(world.port.started == 1);
  CHECK(world.gpu.state() == Gpu::State::starting);
  world.ready();
  CHECK(world.gpu.state() == Gpu::State::ready);
  const auto second = world.create(2);
  CHECK(world.port.started == 1);
}

TEST_CASE("memory is there when the worker says so, and its descriptor can be sent then") {
  World world;
  const auto memory = world.create(7, 3 * unit);
  const auto told = world.port.take();
  REQUIRE(told.size() == 1);
  CHECK(told[0].read().body_as_Make()->segment() == 7);
  CHECK(told[0].read().body_as_Make()->bytes() == 3 * unit);
  CHECK(memory->descriptor() == -1);
  CHECK(memory->host().empty());
  auto& outcome = world.watch(memory);
  CHECK_FALSE(outcome);
  world.ready();
  CHECK_FALSE(outcome);
  world.made(7);
  REQUIRE(outcome);
  CHECK(outcome->ok());
  CHECK(memory->descriptor() >= 0);
  CHECK(world.watch(memory)->ok());
  CHECK(memory->seal().ok());
  CHECK(memory->seal_hard().error().code() == Code::invalid);
}

TEST_CASE("memory that can't be made is lost, with the worker's reason") {
  World world;
  const auto memory = world.create(7);
  auto& outcome = world.watch(memory);
  world.not_made(7, Error(Code::out_of_memory, "the GPU is full", "wait"));
  REQUIRE(outcome);
  CHECK(outcome->error().message() == "the GPU is full");
  CHECK(memory->is_lost());
  CHECK(world.watch(memory)->error().code() == Code::out_of_memory);
  CHECK(memory->descriptor() == -1);
  // Whatever comes after that changes nothing.
  world.made(7);
  CHECK(memory->is_lost());
}

TEST_CASE("the worker is told of memory that nobody needs any more, once") {
  World world;
  auto memory = world.create(7);
  auto coming = world.create(8);
  world.made(7);
  world.port.take();
  memory.reset();
  coming.reset();
  CHECK(world.gpu.segments() == 2);  // the end may have been on any thread
  world.settle();
  CHECK(world.gpu.segments() == 1);
  CHECK(types(world.port.take()) == std::vector{wire::Body_Drop, wire::Body_Drop});
  world.made(8);  // it had been on its way
  CHECK(world.gpu.segments() == 0);
  world.ready();
  CHECK_FALSE(world.gpu.next_deadline());
}

TEST_CASE("a worker that makes no memory is ended, also if nobody waits for it any more") {
  World world;
  auto memory = world.create(7);
  world.ready();
  bool told = false;
  CHECK_FALSE(memory->when_made([&](const Result<void>&) { told = true; }).value());
  world.tick(seconds(0));
  memory.reset();
  world.settle();
  world.tick(seconds(59));
  CHECK(world.port.killed == 0);
  world.tick(seconds(1));
  CHECK(world.port.killed == 1);
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  CHECK(world.gpu.segments() == 0);
  CHECK_FALSE(told);
}

namespace {

SegmentMemoryPtr leave_in_place(World& world, std::uint32_t id) {
  ipc::InPlaceMemory there{.bytes = 1000, .handle = {1, 2, 3}, .gpu = {4, 5}};
  auto made = world.gpu.create({.id = SegmentId{id}, .bytes = 1000, .in_place = &there});
  REQUIRE(made);
  return std::move(*made);
}

/// Notes that the device has closed it.
void watch_close(const SegmentMemoryPtr& memory, bool& closed) {
  memory->when_closed([&closed] { closed = true; });
}

void dropped(World& world, std::uint32_t id) {
  world.say(wire::Body_Dropped, [&](auto& fbb) { return wire::CreateDropped(fbb, id); });
}

}  // namespace

TEST_CASE("memory that was left in place is opened by the worker, and has no descriptor") {
  World world;
  const auto memory = leave_in_place(world, 7);
  const auto told = world.port.take();
  REQUIRE(types(told) == std::vector{wire::Body_Open});
  const auto& open = *told[0].read().body_as_Open();
  CHECK(open.segment() == 7);
  CHECK(open.memory()->bytes() == 1000);
  CHECK(open.memory()->handle()->Get(2) == 3);
  CHECK(open.memory()->gpu()->Get(1) == 5);
  auto& outcome = world.watch(memory);
  world.ready();
  CHECK_FALSE(outcome);
  SECTION("it can") {
    world.say(wire::Body_Made, [](auto& fbb) { return wire::CreateMade(fbb, 7); });
    REQUIRE(outcome);
    CHECK(outcome->ok());
    CHECK(memory->descriptor() == -1);
    CHECK(memory->in_place()->handle[1] == 2);
    CHECK_FALSE(memory->is_lost());
    memory->lose_owner();
    CHECK(memory->is_lost());
  }
  SECTION("it can't") {
    world.not_made(7, Error(Code::invalid, "no such handle", ""));
    REQUIRE(outcome);
    CHECK(outcome->error().code() == Code::invalid);
    CHECK(memory->is_lost());
  }
}

TEST_CASE("the next worker opens what was left in place, too") {
  World world;
  const auto memory = leave_in_place(world, 7);
  world.ready();
  world.say(wire::Body_Made, [](auto& fbb) { return wire::CreateMade(fbb, 7); });
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  CHECK_FALSE(memory->is_lost());
  world.port.take();
  const auto more = world.create(9);
  CHECK(types(world.port.take()) == std::vector{wire::Body_Open, wire::Body_Make});
  const bool opens = GENERATE(true, false);
  if (opens) world.say(wire::Body_Made, [](auto& fbb) { return wire::CreateMade(fbb, 7); });
  else world.not_made(7, Error(Code::invalid, "no such handle", ""));
  CHECK(memory->is_lost() != opens);
}

TEST_CASE("the next worker opens nothing whose owner has gone") {
  World world;
  const auto memory = leave_in_place(world, 7);
  world.ready();
  world.say(wire::Body_Made, [](auto& fbb) { return wire::CreateMade(fbb, 7); });
  memory->lose_owner();
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  world.port.take();
  const auto more = world.create(9);
  CHECK(types(world.port.take()) == std::vector{wire::Body_Make});
  CHECK(memory->is_lost());
}

TEST_CASE("what was left in place is closed when the worker says so, or is gone") {
  World world;
  bool closed = false;
  auto memory = leave_in_place(world, 7);
  watch_close(memory, closed);
  const bool opened = GENERATE(true, false);
  if (opened) {
    world.ready();
    world.say(wire::Body_Made, [](auto& fbb) { return wire::CreateMade(fbb, 7); });
  }
  world.port.take();
  const auto end = [&] {
    memory.reset();
    CHECK_FALSE(closed);
    world.settle();
  };
  SECTION("the worker says so") {
    end();
    const auto told = world.port.take();
    REQUIRE(types(told) == std::vector{wire::Body_Drop});
    CHECK(told[0].read().body_as_Drop()->tell());
    CHECK_FALSE(closed);
    dropped(world, 8);
    CHECK_FALSE(closed);
    dropped(world, 7);
  }
  SECTION("the worker dies before it says so") {
    end();
    CHECK_FALSE(closed);
    world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  }
  SECTION("the worker is being killed") {
    world.gpu.replace_worker(Error(Code::failed, "it hangs"));
    end();
    CHECK_FALSE(closed);
    world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  }
  SECTION("the worker had died before") {
    world.gpu.worker_ended("it was ended by SIGKILL", world.now);
    end();
  }
  CHECK(closed);
  CHECK(world.gpu.segments() == (opened || world.gpu.state() != Gpu::State::starting ? 0 : 1));
}

TEST_CASE("a worker that does not close what was left in place is ended") {
  World world;
  bool closed = false;
  auto memory = leave_in_place(world, 7);
  watch_close(memory, closed);
  world.ready();
  world.say(wire::Body_Made, [](auto& fbb) { return wire::CreateMade(fbb, 7); });
  memory.reset();
  world.settle();
  world.tick(seconds(0));
  REQUIRE(world.gpu.next_deadline());
  world.tick(seconds(60));
  CHECK(world.port.killed == 1);
  CHECK_FALSE(closed);
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  CHECK(closed);
  CHECK_FALSE(world.gpu.next_deadline());
}

TEST_CASE("memory may outlive the GPU") {
  auto world = std::make_unique<World>();
  auto memory = world->create(7);
  std::vector<Errand> left;
  memory.reset();
  left = std::move(world->errands);
  world.reset();
  for (auto& posted : left)
    for (const auto& function : posted) function();
}

TEST_CASE("a job names places in segments, and ends when the worker says so") {
  World world;
  const auto from = world.create(7);
  const auto to = world.create(8);
  world.port.take();
  world.start(1, from, to);
  const auto told = world.port.take();
  REQUIRE(told.size() == 1);
  const auto& job = *told[0].read().body_as_Job();
  CHECK(job.job() == 1);
  CHECK_FALSE(job.more());
  CHECK(job.outputs()->Get(0)->segment() == 8);
  CHECK(job.outputs()->Get(0)->offset() == 64);
  CHECK(job.copies()->Get(0)->source().segment() == 7);
  CHECK(job.copies()->Get(0)->source().offset() == 128);
  world.start(2, from, to);
  world.ended(2, Error(Code::failed, "it broke", "mend it"));
  world.ended(1);
  world.ended(1);
  REQUIRE(world.ends[1].size() == 1);
  CHECK(world.ends[1][0].ok());
  REQUIRE(world.ends[2].size() == 1);
  CHECK(world.ends[2][0].error().message() == "it broke");
  CHECK(world.gpu.jobs() == 0);
}

TEST_CASE("a large job comes in parts that fit into packets") {
  World world;
  const auto from = world.create(7);
  const auto to = world.create(8);
  world.port.take();
  constexpr std::size_t copies = 5000;
  world.start(1, from, to, copies);
  const auto told = world.port.take();
  REQUIRE(told.size() > 1);
  std::size_t seen = 0;
  std::size_t outputs = 0;
  for (const auto& part : told) {
    const auto& job = *part.read().body_as_Job();
    CHECK(part.frame.size() <= worker_packet_bytes_max);
    CHECK(job.more() == (&part != &told.back()));
    outputs += job.outputs()->size();
    for (const auto* copy : *job.copies()) CHECK(copy->offset() == 8 * seen++);
  }
  CHECK(seen == copies);
  CHECK(outputs == 1);
}

TEST_CASE("when the worker dies, its jobs fail, memory that was made stays, and the next worker gets it") {
  World world;
  const auto kept = world.create(7);
  const auto coming = world.create(8);
  world.ready();
  world.made(7);
  auto& outcome = world.watch(coming);
  world.start(1, kept, coming);
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  REQUIRE(world.ends[1].size() == 1);
  CHECK(world.ends[1][0].error().message() == "cuda:2 failed: its worker ended: it was ended by SIGKILL");
  REQUIRE(outcome);
  CHECK_FALSE(outcome->ok());
  CHECK_FALSE(kept->is_lost());
  CHECK(kept->descriptor() >= 0);
  // It had been of use, so another is started as soon as somebody needs it.
  CHECK(world.gpu.state() == Gpu::State::none);
  world.port.take();
  const auto more = world.create(9);
  CHECK(world.port.started == 2);
  const auto told = world.port.take();
  REQUIRE(types(told) == std::vector{wire::Body_Adopt, wire::Body_Make});
  CHECK(told[0].read().body_as_Adopt()->segment() == 7);
  CHECK(told[0].fd);
}

TEST_CASE("a worker that dies before it was of use is replaced after a pause, which grows") {
  World world;
  Duration pause{};
  for (int failures = 0; failures < 9; ++failures) {
    INFO(failures);
    const auto memory = world.create(1);
    world.gpu.worker_ended("it exited with status 1", world.now);
    CHECK(memory->is_lost());
    REQUIRE(world.gpu.state() == Gpu::State::pausing);
    const auto refused = world.gpu.create({SegmentId{2}, unit, SegmentSpec::Writer::client, false});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message() == "cuda:2 can't be used now: its worker ended: it exited with status 1");
    const Duration next = *world.gpu.next_deadline() - world.now;
    CHECK(next >= pause);
    CHECK(next <= seconds(60));
    pause = next;
    world.tick(next - Duration(1));
    CHECK(world.gpu.state() == Gpu::State::pausing);
    world.tick(Duration(1));
    CHECK(world.gpu.state() == Gpu::State::none);
  }
  CHECK(pause == seconds(60));
  const auto memory = world.create(1);
  world.made(1);
  world.gpu.worker_ended("it was ended by SIGSEGV", world.now);
  CHECK(world.gpu.state() == Gpu::State::none);
}

TEST_CASE("a job that needs a worker that can't be had fails, and not within start()") {
  World world;
  const auto from = world.create(1);
  world.made(1);
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  world.port.refuses = true;
  world.start(5, from, from);
  CHECK(world.ends.empty());
  world.settle();
  REQUIRE(world.ends[5].size() == 1);
  CHECK(world.ends[5][0].error().message() == "no process");
  CHECK_FALSE(world.gpu.create({SegmentId{2}, unit, SegmentSpec::Writer::client, false}));
}

TEST_CASE("a worker that does not answer is ended") {
  World world;
  const auto memory = world.create(1);
  auto& outcome = world.watch(memory);
  REQUIRE(world.gpu.next_deadline());
  CHECK(*world.gpu.next_deadline() <= world.now);
  world.tick({});
  CHECK(*world.gpu.next_deadline() == world.now + seconds(60));
  world.tick(seconds(59));
  // Any sign of life will do.
  world.ready();
  world.tick(seconds(2));
  world.tick(seconds(59));
  CHECK(world.port.killed == 0);
  world.tick(seconds(1));
  CHECK(world.port.killed == 1);
  CHECK(world.gpu.state() == Gpu::State::ending);
  // Nobody waits for the end of its process, which may hang.
  REQUIRE(outcome);
  CHECK(outcome->error().code() == Code::timeout);
  world.made(1);
  CHECK(memory->is_lost());
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  CHECK(outcome->error().message() == "cuda:2 failed: its worker did not answer within 60 s");
}

TEST_CASE("nobody waits for a worker that has nothing to answer") {
  World world;
  const auto memory = world.create(1);
  world.ready();
  world.made(1);
  CHECK_FALSE(world.gpu.next_deadline());
  world.tick(std::chrono::hours(10));
  CHECK(world.port.killed == 0);
}

TEST_CASE("a job that was cancelled has a while to end, then its worker is ended") {
  World world;
  const auto memory = world.create(1);
  world.ready();
  world.made(1);
  world.start(1, memory, memory);
  world.start(2, memory, memory);
  world.port.take();
  world.gpu.cancel(1);
  world.gpu.cancel(1);
  world.gpu.cancel(99);
  CHECK(types(world.port.take()) == std::vector{wire::Body_Cancel});
  world.tick({});
  CHECK(*world.gpu.next_deadline() == world.now + seconds(5));
  SECTION("it ends in time") {
    world.tick(seconds(4));
    world.ended(1);
    CHECK(world.ends[1].size() == 1);
    world.tick(seconds(10));
    CHECK(world.port.killed == 0);
    CHECK_FALSE(world.gpu.next_deadline());
  }
  SECTION("it does not") {
    world.tick(seconds(5));
    CHECK(world.port.killed == 1);
    CHECK(world.ends.empty());
    world.gpu.worker_ended("it was ended by SIGKILL", world.now);
    CHECK(world.ends[1][0].error().message() == "cuda:2 failed: a job that was cancelled did not end");
    CHECK(world.ends[2].size() == 1);
    CHECK(world.gpu.jobs() == 0);
  }
}

TEST_CASE("a worker that says what makes no sense is ended") {
  World world;
  const auto memory = world.create(1);
  SECTION("no frame") { world.gpu.received(std::vector(40, std::byte{7}), {}, world.now); }
  SECTION("what only the daemon says") {
    world.say(wire::Body_Drop, [](auto& fbb) { return wire::CreateDrop(fbb, 1); });
  }
  SECTION("that it can't go on") {
    world.say(wire::Body_Unable, [](auto& fbb) {
      const auto why = add_why(fbb, Error(Code::failed, "cuInit failed", "buy a GPU"));
      return wire::CreateUnable(fbb, why);
    });
  }
  CHECK(world.port.killed == 1);
  CHECK(world.gpu.state() == Gpu::State::ending);
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  CHECK(memory->is_lost());
}

TEST_CASE("memory whose descriptor the daemon had no room for is lost, and the worker goes on") {
  World world;
  const auto memory = world.create(1);
  world.say(wire::Body_Made, [](auto& fbb) { return wire::CreateMade(fbb, 1); });
  CHECK(memory->is_lost());
  CHECK(world.watch(memory)->error().code() == Code::quota_exceeded);
  CHECK(world.port.killed == 0);
}

TEST_CASE("a job that is cancelled while its worker starts does not end the worker") {
  World world;
  const auto memory = world.create(1);
  world.start(1, memory, memory);
  world.gpu.cancel(1);
  world.tick({});
  world.tick(seconds(30));
  CHECK(world.port.killed == 0);
  world.ready();
  world.tick({});
  world.tick(seconds(4));
  CHECK(world.port.killed == 0);
  world.tick(seconds(1));
  CHECK(world.port.killed == 1);
}

TEST_CASE("a job that could not start says nothing for the worker") {
  World world;
  const auto memory = world.create(1);
  world.made(1);
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  world.start(1, memory, memory);
  world.gpu.worker_ended("it exited with status 1", world.now);
  CHECK(world.gpu.state() == Gpu::State::pausing);
  const auto first = *world.gpu.next_deadline() - world.now;
  world.start(2, memory, memory);
  world.settle();
  REQUIRE(world.ends[2].size() == 1);
  CHECK(world.gpu.state() == Gpu::State::pausing);
  world.tick(first);
  world.start(3, memory, memory);
  world.gpu.worker_ended("it exited with status 1", world.now);
  CHECK(*world.gpu.next_deadline() - world.now == 2 * first);
}

TEST_CASE("when a worker dies, what it was making is lost before anybody is told") {
  World world;
  const auto memory = world.create(1);
  world.made(1);
  const auto coming = world.create(2);
  bool was_lost = false;
  Job job;
  job.id = 1;
  job.outputs.push_back({coming.get(), 0});
  job.ended = [&](const JobEnd&) { was_lost = coming->is_lost(); };
  world.gpu.start(std::move(job), world.now + seconds(1));
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  CHECK(was_lost);
}

TEST_CASE("the end of a worker may start the next one from within") {
  World world;
  const auto memory = world.create(1);
  world.made(1);
  SegmentMemoryPtr next;
  Job job;
  job.id = 1;
  job.outputs.push_back({memory.get(), 0});
  job.work.copies.push_back({0, 0, {memory.get(), 0}, 8});
  job.ended = [&](const JobEnd&) { next = world.create(2); };
  world.gpu.start(std::move(job), world.now + seconds(1));
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  REQUIRE(next);
  CHECK(world.gpu.state() == Gpu::State::starting);
  world.made(2);
  CHECK(next->descriptor() >= 0);
}

TEST_CASE("descriptors of memory that the next worker gets are not copied, and stay open until they were sent") {
  World world;
  auto memory = world.create(1);
  world.ready();
  world.made(1);
  const int descriptor = memory->descriptor();
  world.gpu.worker_ended("it was ended by SIGKILL", world.now);
  world.port.take();
  const auto other = world.create(2);
  auto told = world.port.take();
  REQUIRE(types(told) == std::vector{wire::Body_Adopt, wire::Body_Make});
  CHECK(told[0].fd->get() == descriptor);
  memory = nullptr;
  world.settle();
  CHECK(types(world.port.take()) == std::vector{wire::Body_Drop});
  CHECK(::fcntl(descriptor, F_GETFD) >= 0);
  told.clear();
  CHECK(::fcntl(descriptor, F_GETFD) < 0);
}

TEST_CASE("while too much waits for a busy worker, nothing new of that user begins, and what has begun can end") {
  World world;
  const auto from = world.create(1);
  auto to = world.create(2);
  world.ready();
  world.made(1);
  world.made(2);
  world.start(1, from, to);
  world.port.take();
  world.port.waiting[0] = (8 << 20) - 1;
  REQUIRE(world.gpu.need_room(0));
  world.port.waiting[0] = 8 << 20;
  world.start(2, from, to);
  CHECK(world.ends.empty());
  world.settle();
  REQUIRE(world.ends[2].size() == 1);
  CHECK(world.ends[2][0].error().code() == Code::quota_exceeded);
  CHECK(world.ends[2][0].error().message() == "cuda:2 is too busy: 8 MiB of requests of user 0 wait for its worker");
  const auto refused = world.gpu.create({SegmentId{3}, unit, SegmentSpec::Writer::client, false});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::quota_exceeded);
  CHECK(world.gpu.segments() == 2);
  CHECK(world.port.take().empty());
  // Other users go on, with half of what is left.
  CHECK(world.gpu.create({.id = SegmentId{4}, .bytes = unit, .user = 7}));
  const auto theirs = world.port.take();
  REQUIRE(types(theirs) == std::vector{wire::Body_Make});
  CHECK(theirs[0].user == UserId{7});
  world.port.waiting[7] = 4 << 20;
  CHECK_FALSE(world.gpu.need_room(7));
  CHECK(world.gpu.need_room(8));
  world.port.waiting[8] = 4 << 20;
  CHECK(world.gpu.need_room(9));  // nothing of this user waits
  world.settle();
  world.port.take();
  world.gpu.cancel(1);
  to = nullptr;
  world.settle();
  CHECK(types(world.port.take()) == std::vector{wire::Body_Cancel, wire::Body_Drop});
  world.port.waiting.clear();
  const auto third = world.create(3);
  world.start(3, from, from);
  CHECK(types(world.port.take()) == std::vector{wire::Body_Make, wire::Body_Job});
}
