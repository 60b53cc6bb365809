// Jobs on lanes: the bits of one thread, each done once and on the control thread, and nobody stuck behind a large one.
#include <catch2/catch.hpp>

#include <condition_variable>
#include <cstring>
#include <latch>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "collective/engine.hpp"

using namespace musterd;
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

/// A job with the memory that it works on.
struct Workload {
  std::vector<Bytes> inputs;
  std::vector<Bytes> outputs;
  Job job;

  void add_fold(std::mt19937& random, DType dtype, ReduceOp op, std::uint64_t count, std::size_t ranks,
                std::uint32_t prefixes = 0) {
    auto& [addresses, folds, copies] = job.work;
    folds.push_back({.output = static_cast<std::uint32_t>(outputs.size()),
                     .prefixes = prefixes,
                     .count = count,
                     .first_input = static_cast<std::uint32_t>(addresses.size()),
                     .ranks = static_cast<std::uint16_t>(ranks),
                     .dtype = dtype,
                     .op = op});
    for (std::size_t rank = 0; rank < ranks; ++rank) addresses.push_back(add_input(random, count * size_of(dtype)));
    for (std::uint32_t output = 0; output < std::max(prefixes, 1U); ++output)
      add_output(count * size_of(*muster::result_dtype(dtype, op)));
  }
  void add_copy(std::mt19937& random, std::uint64_t bytes) {
    job.work.copies.push_back({outputs.size(), 0, add_input(random, bytes), bytes});
    add_output(bytes);
  }
  void add_output(std::uint64_t bytes) {
    outputs.emplace_back(bytes + 1);
    job.outputs.push_back(outputs.back().data());
  }
  const std::byte* add_input(std::mt19937& random, std::uint64_t bytes) {
    Bytes& input = inputs.emplace_back(bytes);
    for (auto& byte : input) byte = static_cast<std::byte>(random());
    return input.data();
  }
  /// What one thread makes of it; the outputs are cleared again.
  std::vector<Bytes> run_inline() {
    Engine::run_inline(job);
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

/// A job that does next to nothing.
Job tiny(Bytes& memory, std::function<void()> done) {
  Job job;
  job.outputs.push_back(memory.data() + memory.size() / 2);
  job.work.copies.push_back({0, 0, memory.data(), 8});
  job.done = std::move(done);
  return job;
}

/// A job that copies the first half of `memory` to the second.
Job copy_of_half(Bytes& memory, std::function<void()> done) {
  Job job = tiny(memory, std::move(done));
  job.work.copies[0].bytes = memory.size() / 2;
  return job;
}

}  // namespace

TEST_CASE("jobs on lanes give the bits of one thread, and each is done once") {
  const unsigned lanes = GENERATE(1U, 2U, 4U);
  std::mt19937 random(lanes);
  Control control;
  Engine engine(lanes, control.post());
  for (int round = 0; round < 10; ++round) {
    if (round % 2 == 1) engine.give_way();  // the same in smaller chunks
    std::vector<std::shared_ptr<Workload>> works;
    std::vector<std::vector<Bytes>> expected;
    std::vector<int> done(8);
    for (std::size_t i = 0; i < done.size(); ++i) {
      works.push_back(random_work(random));
      expected.push_back(works.back()->run_inline());
      Job job = works.back()->job;
      job.done = [&done, i] { ++done[i]; };
      engine.submit(std::move(job));
    }
    control.run(done.size());
    CHECK(done == std::vector<int>(done.size(), 1));
    for (std::size_t i = 0; i < done.size(); ++i) CHECK(works[i]->outputs == expected[i]);
  }
}

TEST_CASE("a fold over many inputs is cut into chunks, too, and gives the same bits") {
  std::mt19937 random(1);
  Control control;
  Engine engine(2, control.post());
  Workload work;
  work.add_fold(random, DType::int32, ReduceOp::sum, 3000, 1000);
  const auto expected = work.run_inline();
  engine.submit(std::move(work.job));
  control.run(1);
  CHECK(work.outputs == expected);
}

TEST_CASE("a job without work is done, too") {
  Control control;
  Engine engine(1, control.post());
  int done = 0;
  Job job;
  job.done = [&] { ++done; };
  engine.submit(std::move(job));
  control.run(1);
  CHECK(done == 1);
}

TEST_CASE("a lease lives until its job's done has run, and ends on the control thread") {
  Control control;
  Engine engine(2, control.post());
  Bytes memory(8 << 20);
  std::thread::id ended;
  bool was_done = false;
  bool done_before_end = false;
  Job job = copy_of_half(memory, [&] { was_done = true; });
  job.lease = std::shared_ptr<int>(new int(0), [&](int* lease) {
    delete lease;
    ended = std::this_thread::get_id();
    done_before_end = was_done;
  });
  engine.submit(std::move(job));
  CHECK(ended == std::thread::id{});
  control.run(1);
  CHECK(ended == std::this_thread::get_id());
  CHECK(done_before_end);
}

namespace {

/// An engine whose single lane is held up, so that jobs queue in a known order.
class HeldEngine {
 public:
  HeldEngine() : engine_(std::in_place, 1, [this](Errand task) { post(std::move(task)); }) {
    engine_->submit(tiny(memory_, [] {}));
    held_.wait();
  }
  Engine& engine() { return *engine_; }
  void go() { go_.count_down(); }
  Control& control() { return control_; }
  void end() { engine_.reset(); }

 private:
  void post(Errand task) {
    if (first_) {
      first_ = false;
      held_.count_down();
      go_.wait();
      return;
    }
    control_.post()(std::move(task));
  }
  Control control_;
  Bytes memory_ = Bytes(64);
  bool first_ = true;  // only the lane reads it
  std::latch held_{1};
  std::latch go_{1};
  std::optional<Engine> engine_;
};

}  // namespace

TEST_CASE("small jobs pass large ones, and processes share a lane") {
  HeldEngine held;
  std::vector<Bytes> memory(4, Bytes(32 << 20));
  std::vector<std::string> order;
  const auto says = [&](const std::string& name) { return [&order, name] { order.push_back(name); }; };
  const auto submit = [&](std::int32_t pid, Job job) {
    job.process.pid = pid;
    held.engine().submit(std::move(job));
  };
  submit(1, copy_of_half(memory[0], says("16 MiB")));
  submit(1, copy_of_half(memory[1], says("16 MiB more")));
  memory[2].resize(8 << 20);
  submit(2, copy_of_half(memory[2], says("4 MiB of another")));
  submit(1, tiny(memory[3], says("small")));
  held.go();
  held.control().run(4);
  CHECK(order == std::vector<std::string>{"small", "4 MiB of another", "16 MiB", "16 MiB more"});
}

TEST_CASE("small jobs can't keep a large one waiting for ever") {
  HeldEngine held;
  Bytes large(16 << 20);
  Bytes small(64);
  std::vector<int> order;
  held.engine().submit(copy_of_half(large, [&] { order.push_back(-1); }));
  for (int i = 0; i < 1000; ++i) held.engine().submit(tiny(small, [&order, i] { order.push_back(i); }));
  held.go();
  held.control().run(1001);
  CHECK(order.back() != -1);
}

TEST_CASE("a job that meets the engine's end is done or dropped, and its lease ends either way") {
  HeldEngine held;
  Bytes memory(8 << 20);
  auto lease = std::make_shared<int>(0);
  std::size_t done = 0;
  for (int i = 0; i < 3; ++i) {
    Job job = copy_of_half(memory, [&] { ++done; });
    job.lease = lease;
    held.engine().submit(std::move(job));
  }
  CHECK(lease.use_count() == 4);
  // Whether the lane begins one more job before it sees the end is a race that either side may win.
  std::thread ending([&] { held.end(); });
  held.go();
  ending.join();
  const auto posted = static_cast<std::size_t>(lease.use_count() - 1);
  held.control().run(posted);
  CHECK(done == posted);
  CHECK(lease.use_count() == 1);
  CHECK(held.control().idle());
}
