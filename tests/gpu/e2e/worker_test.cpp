// A GPU with its real worker process: memory, folds, copies, and what becomes of them when the worker dies. Runs over
// whatever libcuda.so.1 the loader finds.
#include <catch2/catch.hpp>

#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "context.hpp"
#include "gpu/control/gpu.hpp"
#include "gpu/process/worker_process.hpp"
#include "gpu/worker/segments.hpp"
#include "injection.hpp"

using namespace musterd;
using namespace musterd::gpu;
using muster::Code;
using muster::DType;
using muster::ReduceOp;
using muster::Result;
using musterd::testing::Context;
using musterd::testing::Injection;

namespace {

constexpr std::uint64_t unit = 2 << 20;

/// The control side of GPU 0, in a loop of its own.
class Node {
 public:
  /// Runs the loop until `done`, or for a minute.
  template <class Done>
  [[nodiscard]] bool run_until(Done done) {
    const auto until = Clock::now() + std::chrono::minutes(1);
    while (!done() && Clock::now() < until) {
      loop_.restart();
      loop_.run_one_for(std::chrono::milliseconds(10));
      for (auto& posted : std::exchange(errands_, {}))
        for (const auto& function : posted) function();
      gpu.tick(Clock::now());
    }
    return done();
  }
  SegmentMemoryPtr create(std::uint64_t bytes = unit) {
    auto made = gpu.create({SegmentId{++last_segment_}, bytes, SegmentSpec::Writer::client, false});
    if (!made) FAIL(made.error().describe());
    const auto memory = std::move(*made);
    REQUIRE(run_until([&] { return memory->descriptor() >= 0 || memory->is_lost(); }));
    return memory;
  }
  /// Runs a job to its end.
  Result<void> run(Work work, std::vector<Place> outputs) {
    std::optional<Result<void>> outcome;
    start(std::move(work), std::move(outputs), outcome);
    REQUIRE(run_until([&] { return outcome.has_value(); }));
    return *outcome;
  }
  void start(Work work, std::vector<Place> outputs, std::optional<Result<void>>& outcome, UserId user = 0) {
    Job job;
    job.id = ++last_job_;
    job.process.user = user;
    job.work = std::move(work);
    for (const auto& output : outputs) job.outputs.push_back(output);
    job.ended = [&outcome](const JobEnd& end) { outcome = end.outcome; };
    gpu.start(std::move(job), Clock::now() + std::chrono::minutes(1));
  }

 private:
  boost::asio::io_context loop_;
  std::vector<Errand> errands_;
  std::uint32_t last_segment_ = 0;
  JobId last_job_ = 0;

 public:
  std::optional<std::string> ended;
  WorkerProcess worker{
      loop_,
      {MUSTERD_PATH, {"musterd", "--gpu-worker", "0"}},
      {.received = [this](std::span<const std::byte> frame,
                          std::vector<muster::ipc::Fd> fds) { gpu.received(frame, std::move(fds), Clock::now()); },
       .ended =
           [this](const std::string& how) {
             ended = how;
             gpu.worker_ended(how, Clock::now());
           }}};
  Gpu gpu{{.device = muster::Device::cuda(0), .limits = {unit, 1 << 30}}, worker, [this](Errand errand) {
            errands_.push_back(std::move(errand));
          }};
};

/// This process's own mapping of a segment.
class Shared {
 public:
  Shared(const Context& context, const SegmentMemoryPtr& memory, std::uint64_t bytes = unit)
      : driver_(*context.driver), mapping_(driver_, bytes) {
    REQUIRE(mapping_.import(memory->descriptor()) == cuda::Status::success);
    REQUIRE(mapping_.map(0) == cuda::Status::success);
  }
  template <class T>
  void write(const std::vector<T>& values, std::uint64_t offset = 0) const {
    REQUIRE(driver_.memcpy_htod_async(mapping_.address() + offset, values.data(), values.size() * sizeof(T), nullptr) ==
            cuda::Status::success);
    REQUIRE(driver_.stream_synchronize(nullptr) == cuda::Status::success);
  }
  template <class T>
  [[nodiscard]] std::vector<T> read(std::size_t count, std::uint64_t offset = 0) const {
    std::vector<T> values(count);
    REQUIRE(driver_.memcpy_dtoh_async(values.data(), mapping_.address() + offset, count * sizeof(T), nullptr) ==
            cuda::Status::success);
    REQUIRE(driver_.stream_synchronize(nullptr) == cuda::Status::success);
    return values;
  }

 private:
  const cuda::Driver& driver_;
  DeviceMapping mapping_;
};

Work sum_of(std::vector<Place> inputs, std::uint64_t count) {
  Work work;
  for (const auto& input : inputs) work.inputs.push_back(input);
  Fold fold;
  fold.count = count;
  fold.ranks = static_cast<std::uint16_t>(inputs.size());
  fold.dtype = DType::float32;
  fold.op = ReduceOp::sum;
  work.folds.push_back(fold);
  return work;
}

}  // namespace

TEST_CASE("an end of a worker that nobody could be told is told again, when the pause is over") {
  boost::asio::io_context loop;
  int told = 0;
  WorkerProcess worker{loop,
                       {"/bin/true", {"true"}},
                       {.received = [](std::span<const std::byte>, std::vector<muster::ipc::Fd>) {},
                        .ended =
                            [&](const std::string&) {
                              if (++told == 1) throw std::bad_alloc();
                            }}};
  REQUIRE(worker.start());
  CHECK_FALSE(worker.next_attempt());
  const auto until = Clock::now() + std::chrono::seconds(30);
  while (told == 0 && Clock::now() < until) loop.run_one_until(until);
  REQUIRE(told == 1);
  const auto next = worker.next_attempt();
  REQUIRE(next);
  while (Clock::now() < *next) std::this_thread::yield();
  CHECK(worker.next_attempt() == next);  // so it is due now
  worker.tell_end();
  CHECK(told == 2);
  CHECK_FALSE(worker.next_attempt());
}

TEST_CASE("a worker folds what lies in several segments") {
  const Context context;
  Node node;
  constexpr std::size_t count = 1001;
  const auto ranks = GENERATE(std::size_t{2}, std::size_t{3}, std::size_t{9}, std::size_t{100});
  std::vector<SegmentMemoryPtr> segments;
  std::vector<Place> inputs;
  std::vector<float> expected(count);
  std::mt19937 random(static_cast<unsigned>(ranks));
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    // Some ranks share a segment.
    constexpr std::uint64_t apart = 8192;
    if (rank % 8 == 0) segments.push_back(node.create());
    std::vector<float> values(count);
    for (auto& value : values) value = static_cast<float>(random() % 1000) / 7;
    inputs.push_back({segments.back().get(), rank % 8 * apart});
    Shared(context, segments.back()).write(values, inputs.back().offset);
    for (std::size_t i = 0; i < count; ++i) expected[i] = rank == 0 ? values[i] : expected[i] + values[i];
  }
  const auto result = node.create();
  const auto outcome = node.run(sum_of(inputs, count), {{result.get(), 64}});
  if (!outcome) FAIL(outcome.error().describe());
  CHECK(Shared(context, result).read<float>(count, 64) == expected);
}

TEST_CASE("a worker copies pieces, few and many") {
  const Context context;
  Node node;
  const auto pieces = GENERATE(std::size_t{1}, std::size_t{3}, std::size_t{3000});
  const auto from = node.create();
  const auto to = node.create();
  std::vector<std::uint16_t> values(2 * pieces + 1);
  std::iota(values.begin(), values.end(), std::uint16_t{1});
  Shared(context, from).write(values);
  Work work;
  for (std::size_t i = 0; i < pieces; ++i) work.copies.push_back({0, 6 * i, {from.get(), 4 * i}, 4});
  const auto outcome = node.run(std::move(work), {{to.get(), 0}});
  if (!outcome) FAIL(outcome.error().describe());
  const auto copied = Shared(context, to).read<std::uint16_t>(3 * pieces);
  for (std::size_t i = 0; i < pieces; ++i) {
    CHECK(copied[3 * i] == values[2 * i]);
    CHECK(copied[3 * i + 1] == values[2 * i + 1]);
    CHECK(copied[3 * i + 2] == 0);
  }
}

TEST_CASE("a job over memory that could not be made fails with the reason") {
  const Context context;
  Node node;
  const auto there = node.create();
  const auto missing = node.create(std::uint64_t{1} << 46);
  REQUIRE(missing->is_lost());
  const auto outcome = node.run(sum_of({{there.get(), 0}, {missing.get(), 0}}, 4), {{there.get(), 0}});
  REQUIRE_FALSE(outcome);
  CHECK(outcome.error().code() == Code::out_of_memory);
  // The worker goes on.
  CHECK(node.run(sum_of({{there.get(), 0}, {there.get(), 64}}, 4), {{there.get(), 128}}));
  CHECK_FALSE(node.ended);
}

TEST_CASE("a job that reaches beyond its segment fails, and nothing is written") {
  const Context context;
  Node node;
  const auto memory = node.create();
  const Shared shared(context, memory);
  shared.write(std::vector<float>(unit / sizeof(float), 1));
  CHECK_FALSE(node.run(sum_of({{memory.get(), 0}, {memory.get(), unit - 8}}, 4), {{memory.get(), 64}}));
  CHECK_FALSE(node.run(sum_of({{memory.get(), 0}, {memory.get(), 32}}, 4), {{memory.get(), unit - 8}}));
  CHECK(shared.read<float>(unit / sizeof(float)) == std::vector<float>(unit / sizeof(float), 1));
  CHECK(node.run(sum_of({{memory.get(), 0}, {memory.get(), 32}}, 4), {{memory.get(), 64}}));
}

TEST_CASE("when the worker is killed its jobs fail, and the next one works with the same memory") {
  const Context context;
  Node node;
  const auto memory = node.create();
  Shared(context, memory).write(std::vector<float>{1, 2, 3, 4});
  std::optional<Result<void>> outcome;
  ::kill(node.worker.pid(), SIGSTOP);
  node.start(sum_of({{memory.get(), 0}, {memory.get(), 0}}, 4), {{memory.get(), 64}}, outcome);
  ::kill(node.worker.pid(), SIGKILL);
  REQUIRE(node.run_until([&] { return outcome.has_value(); }));
  REQUIRE_FALSE(*outcome);
  CHECK(outcome->error().message() == "cuda:0 failed: its worker ended: it was ended by SIGKILL");
  REQUIRE(node.ended);
  const auto again = node.run(sum_of({{memory.get(), 0}, {memory.get(), 0}}, 4), {{memory.get(), 64}});
  if (!again) FAIL(again.error().describe());
  CHECK(Shared(context, memory).read<float>(4, 64) == std::vector<float>{2, 4, 6, 8});
}

TEST_CASE("a context that is lost ends its worker, and the next one has the same memory", "[fake]") {
  const Context context;
  Node node;
  const auto memory = node.create();
  Shared(context, memory).write(std::vector<float>{1, 2, 3, 4});
  const Work work = sum_of({{memory.get(), 0}, {memory.get(), 0}}, 4);
  {
    const Injection broken("call=cuLaunchKernel sticky=CUDA_ERROR_ILLEGAL_ADDRESS pid=" +
                           std::to_string(node.worker.pid()));
    const auto outcome = node.run(work, {{memory.get(), 64}});
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().message().find("CUDA_ERROR_ILLEGAL_ADDRESS") != std::string::npos);
    CHECK(outcome.error().message().starts_with("cuda:0 failed: "));
  }
  const auto again = node.run(work, {{memory.get(), 64}});
  if (!again) FAIL(again.error().describe());
  CHECK(Shared(context, memory).read<float>(4, 64) == std::vector<float>{2, 4, 6, 8});
}

TEST_CASE("a call that fails and leaves the context fails its job only", "[fake]") {
  const Context context;
  Node node;
  const auto memory = node.create();
  const Work work = sum_of({{memory.get(), 0}, {memory.get(), 0}}, 4);
  REQUIRE(node.run(work, {{memory.get(), 64}}));
  const int worker = node.worker.pid();
  {
    const Injection full("call=cuLaunchKernel error=CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES pid=" + std::to_string(worker));
    const auto outcome = node.run(work, {{memory.get(), 64}});
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().message().find("cuLaunchKernel failed: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES") !=
          std::string::npos);
  }
  CHECK(node.run(work, {{memory.get(), 64}}));
  CHECK(node.worker.pid() == worker);
}

TEST_CASE("a worker that hangs in a call is replaced once a cancelled job does not end", "[fake]") {
  const Context context;
  Node node;
  const auto memory = node.create();
  const Work work = sum_of({{memory.get(), 0}, {memory.get(), 0}}, 4);
  REQUIRE(node.run(work, {{memory.get(), 64}}));
  std::optional<Result<void>> outcome;
  {
    const Injection hang("call=cuLaunchKernel hang pid=" + std::to_string(node.worker.pid()));
    node.start(work, {{memory.get(), 64}}, outcome);
    node.gpu.cancel(2);
    REQUIRE(node.run_until([&] { return outcome.has_value(); }));
    CHECK(outcome->error().message() == "cuda:0 failed: a job that was cancelled did not end");
  }
  CHECK(node.run(work, {{memory.get(), 64}}));
}

TEST_CASE("a driver that can't be initialized is told, and tried again after a pause", "[fake]") {
  const Context context;
  Node node;
  {
    const Injection broken("call=cuDevicePrimaryCtxRetain error=CUDA_ERROR_DEVICE_UNAVAILABLE");
    auto made = node.gpu.create({SegmentId{1000}, unit, SegmentSpec::Writer::client, false});
    REQUIRE(made);
    REQUIRE(node.run_until([&] { return (*made)->is_lost(); }));
    const auto why = (*made)->when_made([](const Result<void>&) {});
    CHECK(why.error().message().find("cuDevicePrimaryCtxRetain failed: CUDA_ERROR_DEVICE_UNAVAILABLE") !=
          std::string::npos);
    REQUIRE(node.run_until([&] { return node.gpu.state() == Gpu::State::pausing; }));
  }
  REQUIRE(node.run_until([&] { return node.gpu.state() == Gpu::State::none; }));
  CHECK(node.create()->descriptor() >= 0);
}

TEST_CASE("thousands of small jobs end, each once") {
  const Context context;
  Node node;
  const auto memory = node.create();
  constexpr std::size_t jobs = 2000;
  Shared(context, memory).write(std::vector<float>{1, 2, 3, 4});
  std::vector<std::optional<Result<void>>> outcomes(jobs);
  for (std::size_t i = 0; i < jobs; ++i)
    node.start(sum_of({{memory.get(), 0}, {memory.get(), 0}}, 4), {{memory.get(), 64 + 16 * i}}, outcomes[i]);
  REQUIRE(node.run_until(
      [&] { return std::ranges::all_of(outcomes, [](const auto& outcome) { return outcome.has_value(); }); }));
  CHECK(std::ranges::all_of(outcomes, [](const auto& outcome) { return outcome->ok(); }));
  const auto values = Shared(context, memory).read<float>(4 * jobs, 64);
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(values[i] == static_cast<float>(2 * (i % 4 + 1)));
}

TEST_CASE("what waits for a worker that does not read has a bound, and is done when it reads again") {
  const Context context;
  Node node;
  const auto from = node.create();
  const auto to = node.create();
  REQUIRE(node.run(sum_of({{from.get(), 0}, {from.get(), 0}}, 4), {{to.get(), 0}}));
  Work large;  // its frames fill packets
  for (std::uint64_t i = 0; i < 1000; ++i) large.copies.push_back({0, 8 * i, {from.get(), 8 * i}, 8});
  ::kill(node.worker.pid(), SIGSTOP);
  constexpr std::size_t bound = 8 << 20;  // half of what others leave
  std::deque<std::optional<Result<void>>> outcomes;
  while (node.worker.waiting_bytes() < bound && outcomes.size() < 10'000)
    node.start(large, {{to.get(), 0}}, outcomes.emplace_back());
  REQUIRE(node.worker.waiting_bytes() >= bound);
  std::optional<Result<void>> refused;
  node.start(large, {{to.get(), 0}}, refused);
  REQUIRE(node.run_until([&] { return refused.has_value(); }));
  REQUIRE_FALSE(*refused);
  CHECK(refused->error().code() == Code::quota_exceeded);
  // Another user's job waits with the others.
  node.start(large, {{to.get(), 0}}, outcomes.emplace_back(), 7);
  CHECK(node.worker.waiting_bytes(7) > 0);
  ::kill(node.worker.pid(), SIGCONT);
  REQUIRE(node.run_until(
      [&] { return std::ranges::all_of(outcomes, [](const auto& outcome) { return outcome.has_value(); }); }));
  CHECK(std::ranges::all_of(outcomes, [](const auto& outcome) { return outcome->ok(); }));
  CHECK(node.worker.waiting_bytes() == 0);
  CHECK_FALSE(node.ended);
}
