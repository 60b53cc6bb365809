// Jobs on the host's lane. They give the same bits as one thread. Each ends once and on the control thread, whether it
// was cancelled or not. No job is stuck behind a large one.
#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <latch>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "collective/host_lane.hpp"
#include "memory/borrowed_memory.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::DType;
using muster::ReduceOp;

namespace {

/// Stands for the control thread: the test's own thread runs what lanes post.
class Control {
 public:
  std::function<void(Errand)> post() {
    return [this](Errand task) {
      std::lock_guard lock(mutex_);
      posted_.splice(posted_.end(), task);
      arrived_.notify_one();
    };
  }
  void run(std::size_t tasks) {
    for (; tasks > 0; --tasks) {
      std::unique_lock lock(mutex_);
      arrived_.wait(lock, [&] { return !posted_.empty(); });
      Errand task;
      task.splice(task.end(), posted_, posted_.begin());
      lock.unlock();
      task.front()();
    }
  }
  [[nodiscard]] bool idle() {
    std::lock_guard lock(mutex_);
    return posted_.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  Errand posted_;
};

using Bytes = std::vector<std::byte>;

/// A job and the memory that it works on.
struct Workload {
  std::vector<Bytes> inputs;
  std::vector<Bytes> outputs;
  Borrowed borrowed;
  Job job;

  void add_fold(std::mt19937& random, DType dtype, ReduceOp op, std::uint64_t count, std::size_t ranks,
                std::uint32_t prefixes = 0) {
    auto& places = job.work.inputs;
    job.work.folds.push_back({.output = static_cast<std::uint32_t>(outputs.size()),
                              .prefixes = prefixes,
                              .count = count,
                              .first_input = static_cast<std::uint32_t>(places.size()),
                              .ranks = static_cast<std::uint16_t>(ranks),
                              .dtype = dtype,
                              .op = op});
    for (std::size_t rank = 0; rank < ranks; ++rank) places.push_back(add_input(random, count * size_of(dtype)));
    for (std::uint32_t output = 0; output < std::max(prefixes, 1U); ++output)
      add_output(count * size_of(*muster::result_dtype(dtype, op)));
  }
  void add_copy(std::mt19937& random, std::uint64_t bytes) {
    job.work.copies.push_back({outputs.size(), 0, add_input(random, bytes), bytes});
    add_output(bytes);
  }
  void add_output(std::uint64_t bytes) {
    outputs.emplace_back(bytes + 1);
    job.outputs.push_back(borrowed.place(outputs.back()));
  }
  Place add_input(std::mt19937& random, std::uint64_t bytes) {
    Bytes& input = inputs.emplace_back(bytes);
    for (auto& byte : input) byte = static_cast<std::byte>(random());
    return borrowed.place(input);
  }
  /// What one thread computes; clears the outputs again.
  std::vector<Bytes> by_one_thread() {
    HostLane::run_all(job);
    auto made = outputs;
    for (Bytes& output : outputs) std::fill(output.begin(), output.end(), std::byte{});
    return made;
  }
};

std::shared_ptr<Workload> random_work(std::mt19937& random) {
  auto work = std::make_shared<Workload>();
  const auto below = [&](std::uint64_t end) { return random() % end; };
  const std::uint64_t largest = below(4) == 0 ? 700'000 : 3000;
  for (auto folds = below(4); folds > 0; --folds) {
    const auto dtype = static_cast<DType>(below(muster::dtype_count));
    const auto op = static_cast<ReduceOp>(below(muster::reduce_op_count));
    if (!muster::result_dtype(dtype, op)) continue;
    const std::size_t ranks = 1 + below(5);
    const auto prefixes = below(3) == 0 ? static_cast<std::uint32_t>(1 + below(ranks)) : 0;
    work->add_fold(random, dtype, op, below(largest), ranks, prefixes);
  }
  for (auto copies = below(3); copies > 0; --copies) work->add_copy(random, below(2 * largest));
  return work;
}

/// Numbers a job; its end counts as one if it was done.
Job numbered(Job job, std::function<void()> done) {
  static JobId last = 0;
  job.id = ++last;
  job.ended = [done = std::move(done)](const JobEnd& end) {
    CHECK(end.quiet);
    if (end.outcome) done();
  };
  return job;
}

/// Copies `bytes` from the beginning of `memory` to its second half.
Job copy_to_half(Bytes& memory, std::uint64_t bytes, std::function<void()> done) {
  static Borrowed borrowed;
  const Place place = borrowed.place(memory);
  Job job;
  job.outputs.push_back(place + memory.size() / 2);
  job.work.copies.push_back({0, 0, place, bytes});
  return numbered(std::move(job), std::move(done));
}

/// A job that does almost nothing.
Job tiny(Bytes& memory, std::function<void()> done) { return copy_to_half(memory, 8, std::move(done)); }

/// A job that copies the first half of `memory` to the second.
Job copy_of_half(Bytes& memory, std::function<void()> done) {
  return copy_to_half(memory, memory.size() / 2, std::move(done));
}

constexpr TimePoint never = TimePoint::max();

}  // namespace

TEST_CASE("jobs on the lane give the bits of one thread, and each is done once") {
  const unsigned threads = GENERATE(1U, 2U, 4U);
  std::mt19937 random(threads);
  Control control;
  HostLane lane(threads, control.post());
  for (int round = 0; round < 10; ++round) {
    if (round % 2 == 1) lane.give_way();  // cuts into smaller chunks
    std::vector<std::shared_ptr<Workload>> works;
    std::vector<std::vector<Bytes>> expected;
    std::vector<int> done(8);
    for (std::size_t i = 0; i < done.size(); ++i) {
      works.push_back(random_work(random));
      expected.push_back(works.back()->by_one_thread());
      lane.start(numbered(works.back()->job, [&done, i] { ++done[i]; }), never);
    }
    CHECK(lane.busy());
    control.run(done.size());
    CHECK_FALSE(lane.busy());
    CHECK(done == std::vector<int>(done.size(), 1));
    for (std::size_t i = 0; i < done.size(); ++i) CHECK(works[i]->outputs == expected[i]);
  }
}

TEST_CASE("a fold over many inputs is cut into chunks, too, and gives the same bits") {
  std::mt19937 random(1);
  Control control;
  HostLane lane(2, control.post());
  Workload work;
  work.add_fold(random, DType::int32, ReduceOp::sum, 3000, 1000);
  const auto expected = work.by_one_thread();
  lane.start(numbered(work.job, [] {}), never);
  control.run(1);
  CHECK(work.outputs == expected);
}

TEST_CASE("a small job runs at once, and nothing is posted") {
  Control control;
  HostLane lane(1, control.post());
  Bytes memory{std::byte{1}, std::byte{2}, std::byte{0}, std::byte{0}};
  CHECK(lane.run_at_once(copy_of_half(memory, [] { FAIL("it was told"); })));
  CHECK(memory[3] == std::byte{2});
  CHECK(control.idle());
}

TEST_CASE("a job without work is done, too") {
  Control control;
  HostLane lane(1, control.post());
  int done = 0;
  lane.start(numbered({}, [&] { ++done; }), never);
  control.run(1);
  CHECK(done == 1);
}

namespace {

/// A lane whose only thread is blocked, so that jobs queue in a known order.
class HeldLane {
 public:
  HeldLane() : lane_(std::in_place, 1, [this](Errand task) { post(std::move(task)); }) {
    lane_->start(tiny(memory_, [] {}), never);
    held_.wait();
  }
  HostLane& lane() { return *lane_; }
  void start(Job job) { lane_->start(std::move(job), never); }
  void go() { go_.count_down(); }
  Control& control() { return control_; }
  void end() { lane_.reset(); }

 private:
  void post(Errand task) {
    if (first_.exchange(false)) {
      held_.count_down();
      go_.wait();
      return;
    }
    control_.post()(std::move(task));
  }
  Control control_;
  Bytes memory_ = Bytes(64);
  std::atomic<bool> first_{true};
  std::latch held_{1};
  std::latch go_{1};
  std::optional<HostLane> lane_;
};

}  // namespace

TEST_CASE("small jobs pass large ones, and processes share a lane") {
  HeldLane held;
  std::vector<Bytes> memory(4, Bytes(32 << 20));
  std::vector<std::string> order;
  const auto says = [&](const std::string& name) { return [&order, name] { order.push_back(name); }; };
  const auto start = [&](std::int32_t pid, Job job) {
    job.process.pid = pid;
    held.start(std::move(job));
  };
  start(1, copy_of_half(memory[0], says("16 MiB")));
  start(1, copy_of_half(memory[1], says("16 MiB more")));
  memory[2].resize(8 << 20);
  start(2, copy_of_half(memory[2], says("4 MiB of another")));
  start(1, tiny(memory[3], says("small")));
  held.go();
  held.control().run(4);
  CHECK(order == std::vector<std::string>{"small", "4 MiB of another", "16 MiB", "16 MiB more"});
}

TEST_CASE("small jobs can't keep a large one waiting for ever") {
  HeldLane held;
  Bytes large(16 << 20);
  Bytes small(64);
  std::vector<int> order;
  held.start(copy_of_half(large, [&] { order.push_back(-1); }));
  for (int i = 0; i < 1000; ++i) held.start(tiny(small, [&order, i] { order.push_back(i); }));
  held.go();
  held.control().run(1001);
  CHECK(order.back() != -1);
}

TEST_CASE("a job that is cancelled before it began does nothing and ends at once") {
  HeldLane held;
  Bytes cancelled{std::byte{1}, std::byte{2}, std::byte{0}, std::byte{0}};
  Bytes other = cancelled;
  int done = 0;
  Job job = copy_of_half(cancelled, [&] { FAIL("it was done"); });
  const JobId id = job.id;
  std::optional<muster::Error> error;
  job.ended = [&](const JobEnd& end) {
    CHECK(end.quiet);
    error = end.outcome.error();
  };
  held.start(std::move(job));
  held.start(copy_of_half(other, [&] { ++done; }));
  held.lane().cancel(id);
  CHECK_FALSE(error);  // never before cancel() has returned
  held.control().run(1);
  CHECK(error);
  held.lane().cancel(id);  // has no effect: it has ended already
  held.go();
  held.control().run(1);
  CHECK(held.control().idle());
  CHECK(done == 1);
  CHECK(cancelled[3] == std::byte{0});
  CHECK(other[3] == std::byte{2});
}

TEST_CASE("a cancelled job keeps nothing until its turn") {
  HeldLane held;
  Bytes memory(16 << 20);
  std::vector<std::weak_ptr<int>> kept;
  constexpr int jobs = 100;
  for (int i = 0; i < jobs; ++i) {
    Job job = copy_of_half(memory, [] {});
    const auto token = std::make_shared<int>(i);
    kept.emplace_back(token);
    job.quiet = [token] {};
    job.ended = [](const JobEnd& end) { CHECK(end.quiet); };
    const JobId id = job.id;
    held.start(std::move(job));
    held.lane().cancel(id);
  }
  held.control().run(jobs);
  // The lane's thread still works for another job.
  CHECK(std::ranges::all_of(kept, [](const auto& token) { return token.expired(); }));
  held.go();
}

TEST_CASE("jobs that are cancelled at any moment end once, and touch no memory after that") {
  const unsigned seed = GENERATE(range(0U, 20U));
  std::mt19937 random(seed);
  Control control;
  HostLane lane(1 + seed % 3, control.post());
  std::vector<Bytes> memory(12);
  std::vector<int> ends(memory.size());
  std::vector<JobId> ids;
  for (std::size_t i = 0; i < memory.size(); ++i) {
    memory[i].resize(random() % 3 == 0 ? 4096 : 4 << 20, std::byte{7});
    Job job = copy_of_half(memory[i], [] {});
    ids.push_back(job.id);
    job.ended = [&, i](const JobEnd& end) {
      CHECK(end.quiet);
      ++ends[i];
      std::ranges::fill(memory[i], std::byte{9});
    };
    lane.start(std::move(job), never);
    if (random() % 2 == 0) lane.cancel(ids[random() % ids.size()]);
  }
  control.run(memory.size());
  CHECK(ends == std::vector<int>(memory.size(), 1));
  CHECK(control.idle());
  for (const Bytes& each : memory) CHECK(std::ranges::count(each, std::byte{9}) == std::ssize(each));
}

TEST_CASE("jobs that meet the lane's end are done or dropped, and it ends") {
  HeldLane held;
  Bytes memory(8 << 20);
  for (int i = 0; i < 3; ++i) held.start(copy_of_half(memory, [] {}));
  // The thread may begin one more job before it sees the end; either order is possible.
  std::thread ending([&] { held.end(); });
  held.go();
  ending.join();
}
