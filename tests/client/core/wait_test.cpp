// Waiting: bounds, many threads, callbacks, event loops, interruption.
#include <catch2/catch.hpp>

#include <poll.h>

#include <atomic>
#include <thread>

#include "base/interrupted.hpp"
#include "core/connection.hpp"
#include "../daemon.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::Group;
using muster::Ref;
using namespace muster::test;
using namespace std::chrono_literals;

struct Pair {
  Daemon daemon;
  Client client = daemon.connect();
  Group first = client.join("pair", {.rank = 0, .world_size = 2, .timeout = 20s}).value();
  Group second = client.join("pair", {.rank = 1, .world_size = 2, .timeout = 20s}).value();
};

TEST_CASE_METHOD(Pair, "a wait that times out names the missing ranks, and the op goes on") {
  const auto work = first.barrier().value();
  CHECK_FALSE(work.done());
  const auto error = work.wait(1ms).error();
  CHECK(error.code() == Code::timeout);
  CHECK(error.ranks() == std::vector<int>{1});
  REQUIRE(second.barrier());
  CHECK(work.wait(10s));
  CHECK(work.done());
}

TEST_CASE_METHOD(Pair, "an op's own deadline is its outcome, on every seat that waits") {
  const auto work = first.barrier({.timeout = 20ms, .key = {}}).value();
  const auto error = work.wait().error();
  CHECK(error.code() == Code::timeout);
  CHECK(error.ranks() == std::vector<int>{1});
  // The late rank gets the recorded outcome, and the group goes on.
  CHECK(second.barrier().value().wait(10s).error().code() == Code::timeout);
  const auto next = first.barrier().value();
  REQUIRE(second.barrier());
  CHECK(next.wait(10s));
}

TEST_CASE_METHOD(Pair, "many threads wait on one connection, each for its own") {
  constexpr int count = 8;
  std::vector<std::thread> threads;
  std::atomic<int> over = 0;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      const muster::OpOptions options{.timeout = 20s, .key = std::to_string(i)};
      for (int round = 0; round < 200; ++round) {
        auto mine = first.barrier(options);
        auto other = second.barrier(options);
        if (!mine || !other || !mine->wait(20s) || !other->wait(20s)) return;
      }
      ++over;
    });
  for (auto& thread : threads) thread.join();
  CHECK(over == count);
}

TEST_CASE_METHOD(Pair, "a waiter is woken by what another thread reads") {
  const auto work = first.barrier().value();
  std::atomic<bool> ended = false;
  std::thread waiter([&] { ended = work.wait(20s).ok(); });
  std::atomic<bool> stop = false;
  std::thread poller([&] {
    while (!stop) client.poll();
  });
  REQUIRE(second.barrier());
  waiter.join();
  stop = true;
  poller.join();
  CHECK(ended);
}

TEST_CASE_METHOD(Pair, "callbacks are called once, by the thread that polls, even when the Work was dropped") {
  int called = 0;
  first.barrier().value().on_done([&] { ++called; });
  auto work = second.barrier().value();
  REQUIRE(work.wait(10s));
  client.poll();
  CHECK(called == 1);
  work.on_done([&] { ++called; });
  CHECK(called == 2);
}

TEST_CASE_METHOD(Pair, "callbacks are called even when a call that runs no callbacks has read the completion") {
  int called = 0;
  const auto work = first.barrier().value();
  work.on_done([&] { ++called; });
  REQUIRE(second.barrier());
  while (!work.state()->over) client.connection()->collect();
  CHECK(called == 0);
  CHECK(work.wait());
  CHECK(called == 1);
}

TEST_CASE_METHOD(Pair, "a callback may start ops and wait") {
  bool inner_over = false;
  auto work = first.barrier().value();
  work.on_done([&] {
    auto inner = first.barrier().value();
    static_cast<void>(second.barrier());
    inner_over = inner.wait(10s).ok();
  });
  REQUIRE(second.barrier());
  REQUIRE(work.wait(10s));
  client.poll();
  CHECK(inner_over);
}

TEST_CASE_METHOD(Pair, "the descriptor becomes readable when an op is over") {
  const int fd = first.barrier().value().fd().value();
  client.poll();
  const auto readable = [&](int timeout_ms) {
    pollfd poll{fd, POLLIN, 0};
    return ::poll(&poll, 1, timeout_ms) == 1;
  };
  for (int round = 0; round < 50; ++round) {
    auto work = second.barrier().value();
    while (!work.done()) {
      REQUIRE(readable(10'000));
      client.poll();
    }
    auto next = first.barrier().value();
    static_cast<void>(next);
  }
}

TEST_CASE_METHOD(Pair, "the outcome of a dropped Work is given back") {
  for (int round = 0; round < 100; ++round) {
    REQUIRE(first.allreduce(filled(client, 1000, 1)));
    REQUIRE(second.allreduce(filled(client, 1000, 1)));
  }
  const auto last = first.allreduce(filled(client, 10, 1)).value();
  REQUIRE(second.allreduce(filled(client, 10, 1)));
  CHECK(floats(last.ref(10s).value())[0] == 2);
  CHECK(client.connected());
}

std::atomic<bool> asked_to_stop{false};

TEST_CASE_METHOD(Pair, "a waiter that is asked to stop stops") {
  asked_to_stop = false;
  muster::detail::set_interrupted([] { return asked_to_stop.load(); });
  const auto work = first.barrier().value();
  bool stopped = false;
  std::thread waiter([&] { stopped = !work.wait(60s); });
  asked_to_stop = true;
  waiter.join();
  asked_to_stop = false;
  muster::detail::set_interrupted(nullptr);
  CHECK(stopped);
  REQUIRE(second.barrier());
  CHECK(work.wait(10s));
}

TEST_CASE_METHOD(Pair, "the longest possible timeouts do not end at once") {
  const auto patient = [&](int rank) {
    return client.join("patient", {.rank = rank, .world_size = 2, .timeout = std::chrono::milliseconds::max()}).value();
  };
  Group left = patient(0);
  Group right = patient(1);
  const auto by_group = left.barrier().value();
  const auto by_op = left.barrier({.timeout = std::chrono::nanoseconds::max(), .key = "op"}).value();
  CHECK(by_group.wait(20ms).error().message().find("is not over") != std::string::npos);
  CHECK(by_op.wait(20ms).error().message().find("is not over") != std::string::npos);
  bool came = false;
  std::thread other([&] { came = right.barrier() && right.barrier({.timeout = {}, .key = "op"}); });
  CHECK(by_group.wait(std::chrono::nanoseconds::max()));
  CHECK(by_op.wait(std::chrono::nanoseconds::max()));
  other.join();
  CHECK(came);
}

TEST_CASE_METHOD(Pair, "a group that was left has no subgroups") {
  REQUIRE(first.leave());
  const auto made = first.subgroup(std::vector<int>{0});
  REQUIRE_FALSE(made);
  CHECK(made.error().code() == Code::group_closed);
}

TEST_CASE_METHOD(Pair, "a process can make objects for ever without waiting in between") {
  // Nobody waits, so this process must read the news of gone objects on the way.
  for (int i = 0; i < 100'000; ++i) static_cast<void>(filled(client, 1, 1));
  CHECK(client.connected());
  REQUIRE(first.barrier());
  CHECK(second.barrier().value().wait(10s));
}

}  // namespace
