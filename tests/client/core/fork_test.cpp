// fork(): memory of the store stays separate, and inherited refs work in the child.
#include <catch2/catch.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>

#include "../daemon.hpp"

namespace {

using muster::Client;
using muster::DType;
using muster::Ref;
using namespace muster::test;
using namespace std::chrono_literals;

/// Lets two processes take turns.
class Turns {
 public:
  Turns() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_) == 0); }
  ~Turns() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  void give(int side) const { static_cast<void>(!::write(ends_[side], "x", 1)); }
  void take(int side) const {
    char byte = 0;
    static_cast<void>(!::read(ends_[side], &byte, 1));
  }

 private:
  int ends_[2];
};
constexpr int parent = 0;
constexpr int child = 1;

TEST_CASE("a child's writes never reach its parent, nor a parent's later writes the child") {
  const Daemon daemon;
  Client client = daemon.connect();
  const bool hard = GENERATE(false, true);
  const muster::Shape shape{1 << 16};
  auto buffer =
      (hard ? client.allocate_hard(DType::float32, shape) : client.allocate_raw(DType::float32, shape)).value();
  const std::span<float> values(static_cast<float*>(buffer.data()), 1 << 16);
  std::fill(values.begin(), values.end(), 1.0F);
  const Turns turns;
  const pid_t forked = in_child([&] {
    std::fill(values.begin(), values.begin() + 100, 2.0F);
    turns.give(child);
    turns.take(child);
    return values[0] == 2.0F && values[30'000] == 1.0F && values[60'000] == 1.0F;
  });
  turns.take(parent);
  CHECK(values[0] == 1.0F);
  std::fill(values.begin() + 20'000, values.end(), 3.0F);
  const Ref ref = std::move(buffer).seal().value();
  CHECK(floats(ref)[0] == 1.0F);
  turns.give(parent);
  CHECK(succeeded(forked));
  CHECK(floats(ref)[60'000] == 3.0F);
}

TEST_CASE("an inherited ref is usable in the child, even when the parent has dropped it") {
  const Daemon daemon;
  Client client = daemon.connect();
  Ref ref = filled(client, 5000, 6);
  const Turns turns;
  const pid_t forked = in_child([&] {
    turns.take(child);
    const std::vector<float> expected(5000, 6);
    if (floats(ref) != expected) return false;
    // It can be passed on over the child's own connection, too.
    auto own = daemon.connect();
    auto sum =
        own.allreduce_refs(std::vector<Ref>{own.deserialize(ref.serialize().value()).value(), filled(own, 5000, 1)});
    return floats(sum.value().ref(10s).value())[0] == 7;
  });
  ref.free();
  // If they were not held for the child, these arrays would use the regions again.
  for (int i = 0; i < 50; ++i) static_cast<void>(filled(client, 5000, 9));
  turns.give(parent);
  CHECK(succeeded(forked));
}

TEST_CASE("a view that the child inherits stays what it was when the parent has ended") {
  const Daemon daemon;
  const Turns turns;
  const Turns report;
  const pid_t middle = in_child([&] {
    auto own = daemon.connect();
    const Ref ref = filled(own, 5000, 5);
    const auto views = ref.get().value();
    const pid_t last = ::fork();
    if (last != 0) return last > 0;
    turns.take(child);
    if (views[0].span<float>()[4999] == 5 && floats(ref)[0] == 5) report.give(child);
    ::_exit(0);
  });
  REQUIRE(succeeded(middle));
  Client client = daemon.connect();
  for (int i = 0; i < 50; ++i) static_cast<void>(filled(client, 5000, 9));
  turns.give(parent);
  report.take(parent);
  SUCCEED("the grandchild read the right values");
}

TEST_CASE("a child may let go of refs that it inherits") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::optional ref = filled(client, 5000, 5);
  std::optional view = ref->get().value().front();
  std::optional buffer = client.allocate_raw(DType::float32, {5000}).value();
  std::optional hard = client.allocate_hard(DType::float32, {5000}).value();
  std::optional group = client.join("g", {.rank = 0, .world_size = 2}).value();
  std::optional work = group->barrier().value();
  const auto let_go = [&] {
    view.reset();
    ref.reset();
    buffer.reset();
    hard.reset();
    work.reset();
    group.reset();
    return true;
  };
  CHECK(succeeded(in_child(let_go)));
  CHECK(succeeded(in_child([&] { return succeeded(in_child(let_go)); })));
  CHECK(view->span<float>()[4999] == 5);
}

TEST_CASE("a child can neither allocate nor seal in memory that it inherits") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = client.allocate_raw(DType::float32, {5000}).value();
  const pid_t forked = in_child([&] {
    const auto more = client.allocate_raw(DType::float32, {5000});
    const auto sealed = std::move(buffer).seal();
    return more.error().code() == muster::Code::daemon_unavailable &&
           sealed.error().message().find("a forked child can't use its parent's connection") == 0;
  });
  CHECK(succeeded(forked));
}

TEST_CASE("a child's refs are independent, and its end takes nothing from the parent") {
  const Daemon daemon;
  Client client = daemon.connect();
  const Ref ref = filled(client, 100, 1);
  for (int i = 0; i < 5; ++i) {
    const pid_t forked = in_child([&] {
      Ref copy = ref;
      auto own = daemon.connect();
      return floats(filled(own, 100, 2))[0] == 2 && floats(copy)[0] == 1;
    });
    CHECK(succeeded(forked));
  }
  CHECK(floats(ref)[0] == 1);
  CHECK(client.connected());
}

TEST_CASE("inherited groups and works are errors in the child, not crashes") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto group = client.join("g", {.rank = 0, .world_size = 1}).value();
  auto work = group.barrier().value();
  const pid_t forked = in_child([&] {
    const bool refused = group.barrier().error().code() == muster::Code::daemon_unavailable;
    static_cast<void>(work.wait(1s));
    return refused && !client.connected();
  });
  CHECK(succeeded(forked));
  CHECK(work.wait(10s));
}

TEST_CASE("forking while other threads work harms neither side", "[forks-beside-threads]") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::atomic<bool> stop = false;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int number = 0; number < 2; ++number)
    threads.emplace_back([&, number] {
      const auto value = static_cast<float>(number);
      while (!stop) {
        auto sum = client.allreduce_refs(std::vector<Ref>{filled(client, 300, value), filled(client, 300, 1)});
        if (!sum || floats(sum->ref(20s).value())[299] != value + 1) ++wrong;
      }
    });
  for (int i = 0; i < 20; ++i) {
    const pid_t forked = in_child([&] {
      auto own = daemon.connect();
      return floats(filled(own, 100, 2))[0] == 2;
    });
    CHECK(succeeded(forked));
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

}  // namespace
