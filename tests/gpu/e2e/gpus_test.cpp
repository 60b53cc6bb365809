// Ops over several GPUs, with real daemons, workers and clients. Runs over whatever libcuda.so.1 and libnccl.so.2 the
// loader finds.
#include <catch2/catch.hpp>

#include <signal.h>

#include <chrono>
#include <complex>
#include <deque>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "books.hpp"
#include "collective/reference.hpp"
#include "gpu/environment.hpp"
#include "injection.hpp"
#include "ranks.hpp"
#include "workers.hpp"

using namespace musterd::testing;
using muster::Code;
using muster::DType;
using muster::ReduceOp;
using muster::Ref;
using muster::Result;
using muster::Work;
using muster::test::Daemon;
using musterd::gpu::test::Variable;
using namespace std::chrono_literals;

namespace {

Tensor numbers(DType dtype, std::vector<std::complex<double>> values) {
  return {dtype, {static_cast<std::int64_t>(values.size())}, std::move(values)};
}

/// A group with one rank for each of these GPUs.
class Team {
 public:
  explicit Team(const std::vector<int>& devices) {
    for (const int device : devices) ranks_.emplace_back(daemon, context_, device);
    int rank = 0;
    for (auto& each : ranks_) each.join("g", rank++, static_cast<int>(devices.size()));
  }

  /// Lets each rank call an op. What comes of it: each rank's refs, or the error, which is the same on all.
  using Call = std::function<Result<Work>(Rank& rank, std::size_t number)>;
  Result<std::vector<std::vector<Ref>>> run(const Call& call) { return wait(start(call)); }
  std::vector<Work> start(const Call& call) {
    std::vector<Work> works;
    for (std::size_t number = 0; number < ranks_.size(); ++number)
      works.push_back(call(ranks_[number], number).value());
    return works;
  }
  static Result<std::vector<std::vector<Ref>>> wait(const std::vector<Work>& works) {
    std::vector<std::vector<Ref>> refs;
    std::optional<muster::Error> failed;
    for (const auto& work : works) {
      auto outcome = work.wait();
      if (&work != &works.front()) CHECK(outcome.ok() == !failed);
      if (!outcome && failed) CHECK(outcome.error().describe() == failed->describe());
      if (outcome) refs.push_back(std::move(outcome->refs));
      else failed = outcome.error();
    }
    if (failed) return *failed;
    return refs;
  }
  /// A sum that every rank must get.
  Result<std::vector<std::vector<Ref>>> sum(std::chrono::milliseconds timeout = 60s) {
    return run([&](Rank& rank, std::size_t) { return give_one(rank, timeout); });
  }
  static Result<Work> give_one(Rank& rank, std::chrono::milliseconds timeout) {
    muster::OpOptions options;
    options.timeout = timeout;
    return rank.group.allreduce(rank.put(array_of(DType::float32, std::vector<float>(100, 1))), ReduceOp::sum, options);
  }
  /// Runs sums until one is done, which must be soon; all of them are right.
  void recovers() {
    const auto until = std::chrono::steady_clock::now() + 60s;
    auto done = sum(5s);
    while (!done && std::chrono::steady_clock::now() < until) done = sum(5s);
    if (!done) FAIL(done.error().describe());
    check_sums(*done);
  }
  void check_sums(const std::vector<std::vector<Ref>>& refs) {
    const std::vector<float> expected(100, static_cast<float>(ranks_.size()));
    for (std::size_t number = 0; number < ranks_.size(); ++number)
      CHECK(ranks_[number].read(refs[number].at(0)).at(0).as<float>() == expected);
  }
  /// What a rank holds of a result, as numbers.
  [[nodiscard]] std::vector<Tensor> read(std::size_t number, const Ref& ref) {
    std::vector<Tensor> tensors;
    for (const auto& array : ranks_[number].read(ref)) {
      const std::int64_t shape[]{static_cast<std::int64_t>(array.count())};
      tensors.push_back(decode(array.dtype, shape, array.bytes.data()));
    }
    return tensors;
  }
  [[nodiscard]] pid_t worker(int device) const { return workers_of(daemon.pid()).at(device); }
  Rank& operator[](std::size_t number) { return ranks_[number]; }

  const Daemon daemon;

 private:
  Context context_;
  std::deque<Rank> ranks_;
};

DeviceArray array_of(const Tensor& tensor) { return {tensor.dtype, encode(tensor).bytes}; }

void check_equal(const Tensor& result, const Tensor& expected) {
  REQUIRE(result.dtype == expected.dtype);
  REQUIRE(result.values.size() == expected.values.size());
  // The order of NCCL's sums is its own, so halves may be rounded otherwise.
  const double error = expected.dtype == DType::float16 || expected.dtype == DType::bfloat16 ? 0.05 : 0;
  for (std::size_t i = 0; i < expected.values.size(); ++i)
    CHECK(std::abs(result.values[i] - expected.values[i]) <= error * std::abs(expected.values[i]));
}

}  // namespace

TEST_CASE("every dtype and op is reduced over GPUs with one or several ranks each", "[4-gpus]") {
  Team team({0, 1, 1, 2, 3, 3, 3});
  constexpr std::size_t ranks = 7;
  std::mt19937 random(3);
  for (std::size_t d = 0; d < muster::dtype_count; ++d)
    for (std::size_t o = 0; o < muster::reduce_op_count; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto reduce_op = static_cast<ReduceOp>(o);
      if (!muster::result_dtype(dtype, reduce_op)) continue;
      INFO(name(dtype) << " " << name(reduce_op));
      std::vector<Tensor> given;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        Tensor tensor = numbers(dtype, {});
        for (int i = 0; i < 9; ++i)
          tensor.values.emplace_back(static_cast<double>(dtype == DType::bool_ ? random() % 2 : 1 + random() % 2));
        tensor.shape = {9};
        given.push_back(std::move(tensor));
      }
      const auto done = team.run([&](Rank& rank, std::size_t number) {
        return rank.group.allreduce(rank.put({array_of(numbers(dtype, {1})), array_of(given[number])}), reduce_op);
      });
      if (!done) FAIL(done.error().describe());
      for (std::size_t rank = 0; rank < ranks; ++rank)
        check_equal(team.read(rank, (*done)[rank].at(0)).at(1), fold(reduce_op, given));
    }
}

TEST_CASE("a reduce over GPUs gives the root the result, and the others nothing", "[3-gpus]") {
  Team team({0, 0, 1, 2, 2});
  const auto done = team.run([&](Rank& rank, std::size_t number) {
    return rank.group.reduce(rank.put(array_of(numbers(DType::float64, {static_cast<double>(number), 1}))), 2,
                             ReduceOp::mean);
  });
  if (!done) FAIL(done.error().describe());
  for (std::size_t rank = 0; rank < 5; ++rank) CHECK((*done)[rank].empty() == (rank != 2));
  CHECK(team.read(2, (*done)[2].at(0)).at(0) == numbers(DType::float64, {2, 1}));
}

TEST_CASE("a reduce_scatter over GPUs gives each rank its part, on its own GPU", "[4-gpus]") {
  Team team({1, 0, 1, 3});
  const auto done = team.run([&](Rank& rank, std::size_t number) {
    std::vector<Ref> parts;
    for (int part = 0; part < 4; ++part)
      parts.push_back(rank.put(array_of(numbers(DType::int32, {static_cast<double>(number) + 10.0 * part}))));
    return rank.group.reduce_scatter(parts);
  });
  if (!done) FAIL(done.error().describe());
  for (std::size_t rank = 0; rank < 4; ++rank)
    CHECK(team.read(rank, (*done)[rank].at(0)).at(0) == numbers(DType::int32, {6 + 40.0 * static_cast<double>(rank)}));
}

TEST_CASE("every dtype and op is scanned over GPUs with the bits of one device", "[3-gpus]") {
  Team team({0, 1, 1, 0, 2});
  std::mt19937 random(4);
  for (std::size_t d = 0; d < muster::dtype_count; ++d)
    for (std::size_t o = 0; o < muster::reduce_op_count; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto reduce_op = static_cast<ReduceOp>(o);
      if (!muster::result_dtype(dtype, reduce_op)) continue;
      INFO(name(dtype) << " " << name(reduce_op));
      std::vector<Tensor> given;
      for (std::size_t rank = 0; rank < 5; ++rank) {
        given.push_back(numbers(dtype, {}));
        for (int i = 0; i < 9; ++i)
          given.back().values.emplace_back(
              static_cast<double>(dtype == DType::bool_ ? random() % 2 : 1 + random() % 2));
        given.back().shape = {9};
      }
      const auto done = team.run([&](Rank& rank, std::size_t number) {
        return rank.group.scan(rank.put(array_of(given[number])), reduce_op);
      });
      if (!done) FAIL(done.error().describe());
      for (std::size_t rank = 0; rank < 5; ++rank)
        CHECK(team.read(rank, (*done)[rank].at(0)).at(0) == fold(reduce_op, std::span(given).first(rank + 1)));
    }
}

TEST_CASE("arrays of several GPUs are put into one, on each rank's own GPU", "[3-gpus]") {
  Team team({2, 0, 1, 0});
  const auto tag = [](std::size_t from, std::size_t to) { return static_cast<double>(10 * from + to); };
  SECTION("stacked") {
    const auto done = team.run([&](Rank& rank, std::size_t number) {
      return rank.group.allgather(rank.put(array_of(numbers(DType::bfloat16, {tag(number, 0), tag(number, 1)}))), true);
    });
    if (!done) FAIL(done.error().describe());
    for (std::size_t rank = 0; rank < 4; ++rank)
      CHECK(team.read(rank, (*done)[rank].at(0)).at(0) == numbers(DType::bfloat16, {0, 1, 10, 11, 20, 21, 30, 31}));
  }
  SECTION("joined") {
    const auto done = team.run([&](Rank& rank, std::size_t number) {
      std::vector<Ref> parts;
      for (std::size_t to = 0; to < 4; ++to) {
        std::vector<std::complex<double>> part(to, tag(number, to));  // parts of other lengths
        parts.push_back(rank.put(array_of(numbers(DType::int16, part))));
      }
      return rank.group.all_to_all(parts, true);
    });
    if (!done) FAIL(done.error().describe());
    for (std::size_t rank = 0; rank < 4; ++rank) {
      Tensor expected = numbers(DType::int16, {});
      for (std::size_t from = 0; from < 4; ++from) expected.values.insert(expected.values.end(), rank, tag(from, rank));
      expected.shape = {static_cast<std::int64_t>(4 * rank)};
      CHECK(team.read(rank, (*done)[rank].at(0)).at(0) == expected);
    }
  }
}

TEST_CASE("a large bundle is reduced over GPUs, and so are many ops at a time", "[2-gpus]") {
  Team team({0, 1, 1});
  SECTION("a bundle of a thousand arrays") {
    const std::vector<DeviceArray> arrays(1000, array_of(numbers(DType::float32, {1, 2})));
    const auto done =
        team.run([&](Rank& rank, std::size_t) { return rank.group.allreduce(rank.put(arrays), ReduceOp::mean); });
    if (!done) FAIL(done.error().describe());
    for (const auto& tensor : team.read(0, (*done)[0].at(0))) CHECK(tensor == numbers(DType::float32, {1, 2}));
  }
  SECTION("a bundle of a thousand arrays that NCCL can't reduce") {
    const std::vector<DeviceArray> arrays(1000, array_of(numbers(DType::int16, {1, 2})));
    const auto done = team.run([&](Rank& rank, std::size_t) { return rank.group.allreduce(rank.put(arrays)); });
    if (!done) FAIL(done.error().describe());
    for (std::size_t rank = 0; rank < 3; ++rank)
      for (const auto& tensor : team.read(rank, (*done)[rank].at(0))) CHECK(tensor == numbers(DType::int16, {3, 6}));
  }
  SECTION("a scan of a thousand arrays") {
    const std::vector<DeviceArray> arrays(1000, array_of(numbers(DType::float32, {1, 2})));
    const auto done = team.run([&](Rank& rank, std::size_t) { return rank.group.scan(rank.put(arrays)); });
    if (!done) FAIL(done.error().describe());
    for (const auto& tensor : team.read(2, (*done)[2].at(0))) CHECK(tensor == numbers(DType::float32, {3, 6}));
  }
  SECTION("ops that begin before others are done") {
    std::vector<Ref> given;
    for (std::size_t rank = 0; rank < 3; ++rank)
      given.push_back(team[rank].put(array_of(DType::float32, std::vector<float>(100, 1))));
    std::vector<std::vector<Work>> works;
    for (int i = 0; i < 50; ++i)
      works.push_back(team.start([&](Rank& rank, std::size_t number) { return rank.group.allreduce(given[number]); }));
    for (const auto& each : works) {
      const auto done = Team::wait(each);
      if (!done) FAIL(done.error().describe());
      team.check_sums(*done);
    }
  }
}

TEST_CASE("what is only shared is read where it lies, on whichever GPU", "[3-gpus]") {
  Team team({0, 1, 2});
  const auto done = team.run([&](Rank& rank, std::size_t number) {
    return rank.group.allgather(rank.put(array_of(numbers(DType::float32, {static_cast<double>(number)}))));
  });
  if (!done) FAIL(done.error().describe());
  for (std::size_t rank = 0; rank < 3; ++rank)
    for (int of = 0; of < 3; ++of)
      CHECK(team[rank].read((*done)[rank].at(static_cast<std::size_t>(of)), of).at(0).as<float>() ==
            std::vector{static_cast<float>(of)});
  CHECK(workers_of(team.daemon.pid()).size() == 3);
}

TEST_CASE("groups over other GPUs have communicators of their own, which go when they are many", "[fake]") {
  const Daemon daemon;
  Context context;
  std::deque<Rank> ranks;
  for (int one = 0; one < 4; ++one)
    for (int other = one + 1; other < 4; ++other) {
      const std::string name = "g" + std::to_string(one) + std::to_string(other);
      auto& first = ranks.emplace_back(daemon, context, one);
      auto& second = ranks.emplace_back(daemon, context, other);
      first.join(name, 0, 2);
      second.join(name, 1, 2);
    }
  for (int round = 0; round < 2; ++round)
    for (std::size_t pair = 0; pair < ranks.size(); pair += 2) {
      const auto one = Team::give_one(ranks[pair], 60s).value();
      const auto two = Team::give_one(ranks[pair + 1], 60s).value();
      const auto done = Team::wait({one, two});
      if (!done) FAIL(done.error().describe());
      CHECK(ranks[pair].read((*done)[0].at(0)).at(0).as<float>() == std::vector<float>(100, 2));
    }
  // Four are kept, and each has two ranks.
  expect_live("communicators", 8);
  expect_live("events", 0);
}

TEST_CASE("without a usable NCCL an op over GPUs fails, and says what was looked for", "[fake]") {
  SECTION("there is none") {
    const Variable named("MUSTER_NCCL_SO", "/nowhere/libnccl.so.2");
    Team team({0, 1});
    const auto done = team.sum();
    REQUIRE_FALSE(done);
    CHECK(done.error().code() == Code::invalid);
    CHECK(done.error().message().find("NCCL (libnccl.so.2) was not found") != std::string::npos);
    CHECK(done.error().message().find("/nowhere/libnccl.so.2") != std::string::npos);
  }
  SECTION("it is too old") {
    const Variable named("MUSTER_NCCL_SO", OLD_NCCL);
    Team team({0, 1});
    const auto done = team.sum();
    REQUIRE_FALSE(done);
    CHECK(done.error().message().find("NCCL (libnccl.so.2) is too old") != std::string::npos);
  }
  SECTION("it is the oldest that works") {
    const Variable named("MUSTER_NCCL_SO", OLDEST_NCCL);
    Team team({0, 1});
    const auto done = team.sum();
    if (!done) FAIL(done.error().describe());
    team.check_sums(*done);
  }
}

namespace {

/// An op over GPUs by which NCCL does something, and the call that it does that with.
struct Exchanging {
  const char* call;
  const char* name;
  Result<Work> give(Rank& rank) const {
    const auto given = rank.put(musterd::testing::array_of(DType::int16, std::vector<std::int16_t>(100, 1)));
    const std::string_view kind = name;
    if (kind == "scan") return rank.group.scan(given);
    if (kind == "stack") return rank.group.allgather(given, true);
    if (kind == "join") return rank.group.all_to_all(std::vector(4, given), true);
    if (kind == "sum by transfers") return rank.group.allreduce(given);
    return rank.group.allreduce(given, ReduceOp::mean);
  }
};
constexpr Exchanging every_exchange[]{{"ncclAllReduce", "mean"},
                                      {"ncclRecv", "sum by transfers"},
                                      {"ncclRecv", "scan"},
                                      {"ncclRecv", "stack"},
                                      {"ncclRecv", "join"}};

}  // namespace

TEST_CASE("a worker that is killed in the middle of an op costs that op one error", "[fake]") {
  const Exchanging& op = every_exchange[GENERATE(range(0, 5))];
  INFO(op.name);
  // Whether NCCL notices the death or not, the daemon does.
  const Variable deaths("MUSTER_FAKE_GPU_NCCL_DEATHS", GENERATE("noticed", "unnoticed"));
  Team team({0, 1, 1, 2});
  team.recovers();
  const auto kept = team[1].put(array_of(numbers(DType::float32, {1, 2, 3})));
  std::vector<Work> works;
  {
    const Injection stall("call=" + std::string(op.call) + " device=2 stall");
    works = team.start([&](Rank& rank, std::size_t) { return op.give(rank); });
    // Each worker has two events for the op that it is at: of its part, and of what NCCL does for that.
    expect_live("events", 6);
    CHECK_FALSE(works.front().done());
    ::kill(team.worker(1), SIGKILL);
    const auto failed = Team::wait(works);
    REQUIRE_FALSE(failed);
    CHECK(failed.error().code() == Code::failed);
  }
  team.recovers();
  const auto again = team.run([&](Rank& rank, std::size_t) { return op.give(rank); });
  if (!again) FAIL(again.error().describe());
  CHECK(team.read(1, kept).at(0) == numbers(DType::float32, {1, 2, 3}));
  expect_live("communicators", 3);
  expect_live("events", 0);
}

TEST_CASE("transfers that make no progress, or fail, cost an op one error, and the next one runs", "[fake]") {
  const std::string how = GENERATE("ncclRecv device=1 stall", "ncclSend device=0 later=ncclRemoteError",
                                   "ncclSend device=1 error=ncclInternalError", "ncclGroupEnd device=1 hang");
  INFO(how);
  Team team({0, 1});
  team.recovers();
  const auto stack = [&](std::chrono::milliseconds timeout) {
    return team.run([&](Rank& rank, std::size_t) {
      muster::OpOptions options;
      options.timeout = timeout;
      return rank.group.allgather(rank.put(array_of(DType::float32, std::vector<float>(100, 1))), true, options);
    });
  };
  {
    const Injection injected("call=" + how);
    const auto failed = stack(1s);
    REQUIRE_FALSE(failed);
    CHECK((failed.error().code() == Code::failed || failed.error().code() == Code::timeout));
  }
  team.recovers();
  const auto done = stack(60s);
  if (!done) FAIL(done.error().describe());
  CHECK(team.read(1, (*done)[1].at(0)).at(0).values == std::vector<std::complex<double>>(200, 1));
  expect_live("events", 0);
}

TEST_CASE("an NCCL that makes no progress costs an op its deadline, and the next ones run", "[fake]") {
  const std::string call = GENERATE("ncclCommInitRankConfig", "ncclAllReduce");
  INFO(call);
  Team team({0, 1});
  {
    const Injection stall("call=" + call + " device=1 stall");
    const auto failed = team.sum(1s);
    REQUIRE_FALSE(failed);
    CHECK(failed.error().code() == Code::timeout);
  }
  const auto worker = team.worker(1);
  team.recovers();
  CHECK(team.worker(1) == worker);
  expect_live("communicators", 2);
  expect_live("events", 0);
}

TEST_CASE("a worker whose NCCL does not come back is replaced, and nothing that was stored is lost", "[fake]") {
  const std::string hangs =
      GENERATE("call=ncclAllReduce hang", "call=ncclGroupEnd hang", "call=ncclAllReduce stall\ncall=ncclCommAbort hang",
               "call=ncclCommInitRankConfig hang");
  INFO(hangs);
  Team team({0, 1});
  const auto kept = team[1].put(array_of(numbers(DType::float32, {1, 2, 3})));
  const auto first = team.worker(1);
  const std::string only = " pid=" + std::to_string(first);
  const auto line_end = hangs.find('\n');
  // It stays: the next worker is another process.
  const Injection hang(hangs.substr(0, line_end) + only +
                       (line_end == std::string::npos ? "" : hangs.substr(line_end) + only));
  const auto failed = team.sum(1s);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code() == Code::timeout);
  REQUIRE(ended_within(first, 60s));
  team.recovers();
  CHECK(team.worker(1) != first);
  CHECK(team.read(1, kept).at(0) == numbers(DType::float32, {1, 2, 3}));
}

TEST_CASE("an error that NCCL has on one GPU fails the op on every seat", "[fake]") {
  const std::string breaks = GENERATE(
      "call=ncclAllReduce device=1 later=ncclRemoteError", "call=ncclAllReduce device=1 error=ncclInternalError",
      "call=ncclCommInitRankConfig device=1 error=ncclSystemError", "call=ncclGetUniqueId error=ncclSystemError");
  INFO(breaks);
  Team team({0, 1, 1});
  {
    const Injection broken(breaks);
    const auto failed = team.sum();
    REQUIRE_FALSE(failed);
    CHECK(failed.error().code() == Code::failed);
    CHECK(failed.error().message().find("cuda:0 and cuda:1 can't work together: cuda:") != std::string::npos);
  }
  team.recovers();
  // Nothing is left of those that were given up.
  expect_live("communicators", 2);
  expect_live("events", 0);
}

TEST_CASE("a worker that does not join the others in time is replaced, so the next op works", "[fake]") {
  Team team({0, 1});
  const auto kept = team[1].put(array_of(numbers(DType::float32, {1, 2, 3})));
  const auto first = team.worker(1);
  // It stays: the next worker is another process.
  const Injection stall("call=ncclCommInitRankConfig stall pid=" + std::to_string(first));
  const auto failed = team.sum();
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code() == Code::timeout);
  CHECK(failed.error().message().find("were not joined by NCCL within 30 s") != std::string::npos);
  team.recovers();
  CHECK(team.worker(1) != first);
  CHECK(team.read(1, kept).at(0) == numbers(DType::float32, {1, 2, 3}));
}

TEST_CASE("an op over GPUs that NCCL often could not join says so", "[fake]") {
  Team team({0, 1});
  {
    const Injection broken("call=ncclGetUniqueId error=ncclSystemError");
    for (const bool is_often : {false, false, true}) {
      const auto failed = team.sum();
      REQUIRE_FALSE(failed);
      const auto& message = failed.error().message();
      CHECK((message.find("(3 failures in a row)") != std::string::npos) == is_often);
    }
  }
  team.recovers();
}
