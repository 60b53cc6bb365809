// Tries every order of a few ranks' calls, a loss, a replacement and a deadline, and many random orders of more ranks.
// Each call has one outcome, all calls of an op have the same, and nothing starts early or late.
#include <catch2/catch.hpp>

#include <functional>
#include <random>

#include "audit.hpp"

using namespace musterd::testing;
using muster::OnLoss;
using muster::ipc::Kind;

namespace {

using Program = std::vector<Call>;

enum class Disturbance { none, loss, replacement };

/// What each rank calls, and which events happen.
struct Case {
  std::vector<Program> programs;
  OnLoss policy = OnLoss::fail;
  Disturbance disturbance = Disturbance::none;
  int victim = 0;
  bool deadline = false;
};

/// Goes through all orders of events: ranks' calls in their own order, loss before replacement.
class Orders {
 public:
  explicit Orders(Case given) : case_(std::move(given)), next_call_(case_.programs.size()) {}

  void run() { extend(); }
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  enum class Event { call, lose, replace, deadline };
  struct Step {
    Event event = Event::call;
    int rank = 0;
    std::size_t call = 0;
  };

  void with(Step step, std::size_t& counter) {
    ++counter;
    steps_.push_back(step);
    extend();
    steps_.pop_back();
    --counter;
  }

  void extend() {
    bool last = true;
    const bool victim_is_gone = lost_ > replaced_;
    for (int rank = 0; rank < static_cast<int>(case_.programs.size()); ++rank) {
      const auto index = static_cast<std::size_t>(rank);
      if (next_call_[index] == case_.programs[index].size()) continue;
      if (victim_is_gone && rank == case_.victim) continue;
      last = false;
      with({Event::call, rank, next_call_[index]}, next_call_[index]);
    }
    if (case_.disturbance != Disturbance::none && lost_ == 0) last = false, with({Event::lose, case_.victim, 0}, lost_);
    if (case_.disturbance == Disturbance::replacement && victim_is_gone)
      last = false, with({Event::replace, case_.victim, 0}, replaced_);
    if (case_.deadline && deadlines_ == 0) last = false, with({Event::deadline, 0, 0}, deadlines_);
    if (last) replay();
  }

  /// Runs twice: once all ops learn of a loss when it happens, and once they learn of it only when another call comes.
  void replay() {
    ++count_;
    constexpr std::size_t all = 1000;
    replay(all);
    if (case_.disturbance == Disturbance::loss) replay(0);
  }

  void replay(std::size_t at_once) {
    Audit audit(static_cast<int>(case_.programs.size()), case_.policy, at_once);
    for (const Step& step : steps_) switch (step.event) {
        case Event::call: audit.call(step.rank, case_.programs[static_cast<std::size_t>(step.rank)][step.call]); break;
        case Event::lose: audit.lose(step.rank); break;
        case Event::replace: audit.replace(step.rank); break;
        case Event::deadline: audit.expire(); break;
      }
    audit.end();
    if (!audit.complaint().empty()) FAIL(audit.complaint());
  }

  Case case_;
  std::vector<std::size_t> next_call_;
  std::vector<Step> steps_;
  std::size_t lost_ = 0;
  std::size_t replaced_ = 0;
  std::size_t deadlines_ = 0;
  std::size_t count_ = 0;
};

Call barrier(std::string key = {}) { return {Kind::barrier, std::move(key), 0}; }
Call allreduce() { return {Kind::allreduce, {}, 0}; }
Call broadcast(int root) { return {Kind::broadcast, {}, root}; }
Call send(int to) { return {Kind::send, {}, to}; }
Call recv(int from) { return {Kind::recv, {}, from}; }
Call reform() { return {Kind::reform, {}, 0}; }

/// Tries all orders of these programs: undisturbed, and with each rank lost under each policy, with and without a
/// deadline.
std::size_t check_all(const std::vector<Program>& programs, bool deadlines) {
  std::size_t count = 0;
  const auto check = [&](Case given) {
    given.programs = programs;
    for (bool deadline : {false, true}) {
      if (deadline && !deadlines) continue;
      given.deadline = deadline;
      Orders orders(given);
      orders.run();
      count += orders.count();
    }
  };
  check({});
  for (int victim = 0; victim < static_cast<int>(programs.size()); ++victim) {
    for (OnLoss policy : {OnLoss::fail, OnLoss::shrink, OnLoss::wait})
      check({{}, policy, Disturbance::loss, victim, false});
    check({{}, OnLoss::wait, Disturbance::replacement, victim, false});
  }
  return count;
}

}  // namespace

TEST_CASE("every order of 2 ranks' 3 calls") {
  CHECK(check_all({{barrier(), allreduce(), barrier()}, {barrier(), allreduce(), barrier()}}, true) > 1000);
}

TEST_CASE("every order where the ranks disagree") {
  CHECK(check_all({{barrier(), allreduce(), barrier()}, {barrier(), broadcast(1), barrier()}}, true) > 1000);
  CHECK(check_all({{broadcast(0), barrier()}, {broadcast(1), barrier()}, {broadcast(0)}}, true) > 1000);
}

TEST_CASE("every order of 3 ranks' 2 calls") {
  CHECK(check_all({{allreduce(), barrier()}, {allreduce(), barrier()}, {allreduce(), barrier()}}, true) > 1000);
}

TEST_CASE("every order of 4 ranks' single call, and of two without deadlines") {
  CHECK(check_all(std::vector<Program>(4, {broadcast(2)}), true) > 1000);
  CHECK(check_all({{broadcast(1), barrier()}, {broadcast(1)}, {broadcast(1), barrier()}, {broadcast(1)}}, false) >
        1000);
}

TEST_CASE("every order of keys called in different orders, and twice") {
  CHECK(check_all({{barrier("a"), barrier("b"), barrier("a")}, {barrier("a"), barrier("a"), barrier("b")}}, true) >
        1000);
}

TEST_CASE("every order of sends and recvs beside a barrier") {
  CHECK(check_all({{send(1), recv(2), barrier()}, {recv(0), barrier()}, {barrier(), send(0)}}, false) > 1000);
  CHECK(check_all({{send(0), recv(0), send(1)}, {recv(0)}}, true) > 100);
}

TEST_CASE("every order of a reform after something else") {
  CHECK(check_all({{allreduce(), reform()}, {allreduce(), reform()}, {allreduce(), reform()}}, false) > 1000);
  CHECK(check_all({{barrier(), reform()}, {reform()}, {reform()}}, true) > 1000);
}

TEST_CASE("random runs of more ranks and calls") {
  std::size_t started = 0;
  std::size_t failed = 0;
  for (unsigned seed = 0; seed < 3000; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const auto below = [&](int end) { return static_cast<int>(random() % static_cast<unsigned>(end)); };
    const int world_size = 1 + below(6);
    const auto policy = static_cast<OnLoss>(below(3));
    const std::size_t at_once = seed % 2 == 0 ? 1000 : seed % 5;
    Audit audit(world_size, policy, at_once);
    for (int step = 0; step < 60; ++step) {
      const int rank = below(world_size);
      const int dice = below(100);
      if (at_once < 1000 && below(4) == 0) audit.catch_up();
      if (!audit.is_live(rank)) {
        if (policy == OnLoss::wait && dice < 30) audit.replace(rank);
      } else if (dice < 2) {
        audit.lose(rank, below(3) == 0 ? "died" : "left");
      } else if (dice < 5) {
        audit.expire();
      } else if (dice < 8) {
        audit.call(rank, reform());
      } else if (dice < 20) {
        audit.call(rank, dice % 2 == 0 ? send(below(world_size)) : recv(below(world_size)));
      } else if (dice < 40) {
        audit.call(rank, barrier(dice % 2 == 0 ? "a" : "b"));
      } else {
        audit.call(rank, dice < 42 ? broadcast(below(world_size)) : allreduce());
      }
    }
    audit.end();
    if (!audit.complaint().empty()) FAIL(audit.complaint());
    started += audit.started();
    failed += audit.failed();
  }
  CHECK(started > 10'000);
  CHECK(failed > 10'000);
}
