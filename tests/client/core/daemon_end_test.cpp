// The daemon's end, as its clients see it: every call fails, at once, with the reason.
#include <catch2/catch.hpp>

#include <poll.h>
#include <signal.h>

#include <thread>

#include "../daemon.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::Ref;
using namespace muster::test;
using namespace std::chrono_literals;

TEST_CASE("a daemon that is killed fails waits and calls with DaemonUnavailable") {
  Daemon daemon;
  Client client = daemon.connect();
  auto group = client.join("g", {.rank = 0, .world_size = 2}).value();
  const Ref ref = filled(client, 100, 1);
  REQUIRE(ref.get());
  const auto work = group.allreduce(ref).value();
  muster::Result<muster::Outcome> outcome = muster::Error(Code::failed, {});
  std::thread waiter([&] { outcome = work.wait(); });
  daemon.kill(SIGKILL);
  waiter.join();
  CHECK(outcome.error().code() == Code::daemon_unavailable);
  CHECK_FALSE(client.connected());
  CHECK(group.barrier().error().code() == Code::daemon_unavailable);
  CHECK(client.allocate<float>({1 << 20}, 1s).error().code() == Code::daemon_unavailable);
  CHECK(ref.serialize().error().code() == Code::daemon_unavailable);
  // Mapped memory stays readable.
  CHECK(floats(ref)[99] == 1);
}

TEST_CASE("a program that only puts hears within 100 ms that its daemon has ended") {
  Daemon daemon;
  Client client = daemon.connect();
  const std::vector<float> values(10, 1);
  const auto put = [&] { return client.put(std::span<const float>(values)); };
  REQUIRE(put());
  daemon.kill(SIGKILL);
  std::this_thread::sleep_for(100ms);
  const auto after = put();
  REQUIRE_FALSE(after);
  CHECK(after.error().code() == Code::daemon_unavailable);
}

TEST_CASE("a daemon that is asked to end says why") {
  Daemon daemon;
  Client client = daemon.connect();
  auto group = client.join("g", {.rank = 0, .world_size = 2}).value();
  const auto work = group.barrier().value();
  muster::Result<muster::Outcome> outcome = muster::Error(Code::failed, {});
  std::thread waiter([&] { outcome = work.wait(); });
  daemon.kill(SIGTERM);
  waiter.join();
  CHECK(outcome.error().code() == Code::daemon_unavailable);
  CHECK_THAT(outcome.error().message(), Catch::Contains("daemon ended"));
}

TEST_CASE("an event loop hears of the daemon's end, once") {
  Daemon daemon;
  Client client = daemon.connect();
  auto group = client.join("g", {.rank = 0, .world_size = 2}).value();
  bool called = false;
  const auto work = group.barrier().value();
  work.on_done([&] { called = true; });
  const int fd = client.fd().value();
  client.poll();
  daemon.kill(SIGKILL);
  pollfd readable{fd, POLLIN, 0};
  while (!called) {
    REQUIRE(::poll(&readable, 1, 10'000) == 1);
    client.poll();
  }
  CHECK(work.wait().error().code() == Code::daemon_unavailable);
  client.poll();
  CHECK(::poll(&readable, 1, 0) == 0);
}

TEST_CASE("no call waits for ever for a daemon that is stopped") {
  Daemon daemon;
  Client client = daemon.connect();
  auto group = client.join("g", {.rank = 0, .world_size = 2}).value();
  daemon.kill(SIGSTOP);
  const auto work = group.barrier().value();
  CHECK(work.wait(20ms).error().code() == Code::timeout);
  muster::ConnectOptions options;
  options.socket = daemon.socket();
  options.timeout = 50ms;
  const pid_t newcomer = in_child([&] { return Client::connect(options).error().code() == Code::timeout; });
  CHECK(succeeded(newcomer));
  daemon.kill(SIGCONT);
  CHECK(work.wait(10ms).error().code() == Code::timeout);
  CHECK(client.connected());
}

TEST_CASE("a call with a deadline does not wait longer for a daemon that is stopped") {
  Daemon daemon;
  Client client = daemon.connect();
  auto group = client.join("g", {.rank = 0, .world_size = 2}).value();
  auto alone = client.join("alone", {.rank = 0, .world_size = 1}).value();
  const auto reduced = alone.allreduce(filled(client, 1 << 20, 1)).value();
  REQUIRE(reduced.wait());
  const auto pending = group.barrier().value();
  const auto late = group.barrier({.timeout = 1s, .key = {}}).value();
  daemon.kill(SIGSTOP);
  const auto code_of = [&](const auto& call) {
    const auto begin = std::chrono::steady_clock::now();
    const Code code = call().error().code();
    CHECK(std::chrono::steady_clock::now() - begin < 4s);
    return code;
  };
  CHECK(code_of([&] { return late.wait(); }) == Code::timeout);
  CHECK(code_of([&] { return pending.wait(500ms); }) == Code::timeout);
  CHECK(code_of([&] { return reduced.result<float>(500ms); }) == Code::timeout);
  CHECK(code_of([&] { return reduced.ref().value().get(500ms); }) == Code::timeout);
  CHECK(code_of([&] { return client.join("later", {.rank = 0, .world_size = 2, .timeout = 1s}); }) == Code::timeout);
  CHECK(code_of([&] { return client.allocate<float>({1 << 25}, 500ms); }) == Code::timeout);
  CHECK(code_of([&] { return client.allocate_hard(muster::DType::float32, {100}, 500ms); }) == Code::timeout);
  CHECK(code_of([&] { return group.split(0, 0, {.timeout = 500ms, .key = {}}); }) == Code::timeout);
  daemon.kill(SIGCONT);
  // The late grant was given back, so it is not in the way.
  CHECK(client.join("later", {.rank = 0, .world_size = 2}));
  CHECK(floats(reduced.ref().value())[0] == 1);
}

TEST_CASE("a client that is killed is lost on its seats") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto group = client.join("g", {.rank = 0, .world_size = 2}).value();
  const pid_t other = in_child([&] {
    auto own = daemon.connect();
    auto seat = own.join("g", {.rank = 1, .world_size = 2}).value();
    static_cast<void>(seat.barrier().value().wait(10s));
    ::raise(SIGKILL);
    return false;
  });
  REQUIRE(group.barrier().value().wait(10s));
  const auto error = group.barrier().value().wait(10s).error();
  CHECK_FALSE(succeeded(other));
  CHECK(error.code() == Code::peer_lost);
  CHECK(error.ranks() == std::vector<int>{1});
  CHECK(group.live() == std::vector<int>{0});
}

}  // namespace
