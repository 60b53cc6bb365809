// Groups and their ops against the real daemon; ranks are threads that share one connection, or processes.
#include <catch2/catch.hpp>

#include <numeric>
#include <thread>

#include "../daemon.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::Group;
using muster::ReduceOp;
using muster::Ref;
using namespace muster::test;
using namespace std::chrono_literals;

constexpr int ranks = 4;

std::vector<Group> join_all(Client& client, const std::string& name = "g", int count = ranks,
                            std::chrono::milliseconds timeout = 10s) {
  std::vector<Group> groups;
  for (int rank = 0; rank < count; ++rank)
    groups.push_back(client.join(name, {.rank = rank, .world_size = count, .timeout = timeout}).value());
  return groups;
}

struct Ranks {
  Daemon daemon;
  Client client = daemon.connect();
  std::vector<Group> groups = join_all(client);
  Ref input(int rank, std::int64_t count = 8) { return filled(client, count, static_cast<float>(rank + 1)); }
  template <class Start>
  std::vector<muster::Work> start(const Start& start_one) {
    std::vector<muster::Work> works;
    for (int rank = 0; rank < ranks; ++rank)
      works.push_back(start_one(groups[static_cast<std::size_t>(rank)], rank).value());
    return works;
  }
};

TEST_CASE_METHOD(Ranks, "allreduce gives every rank the reduction") {
  const auto works = start([&](Group& group, int rank) { return group.allreduce(input(rank, 1000)); });
  for (const auto& work : works) CHECK(floats(work.ref(10s).value()) == std::vector<float>(1000, 10));
}

TEST_CASE_METHOD(Ranks, "reduce gives the reduction to the root, scan gives prefixes") {
  const auto reduced = start([&](Group& group, int rank) { return group.reduce(input(rank), 2, ReduceOp::max); });
  for (int rank = 0; rank < ranks; ++rank) {
    const auto outcome = reduced[static_cast<std::size_t>(rank)].wait(10s).value();
    CHECK(outcome.refs.size() == (rank == 2 ? 1 : 0));
    CHECK(outcome.contributors == ranks);
  }
  const auto scanned = start([&](Group& group, int rank) { return group.scan(input(rank)); });
  const float expected[] = {1, 3, 6, 10};
  for (std::size_t rank = 0; rank < ranks; ++rank) CHECK(floats(scanned[rank].ref(10s).value())[0] == expected[rank]);
}

TEST_CASE_METHOD(Ranks, "broadcast, allgather and gather move nothing on one node") {
  const Ref whole = input(1);
  const auto sent = start([&](Group& group, int) { return group.broadcast(whole, 1); });
  for (const auto& work : sent) CHECK(floats(work.ref(10s).value())[0] == 2);
  const auto gathered = start([&](Group& group, int rank) { return group.allgather(input(rank)); });
  for (const auto& work : gathered) {
    const auto outcome = work.wait(10s).value();
    REQUIRE(outcome.refs.size() == ranks);
    for (std::size_t rank = 0; rank < ranks; ++rank)
      CHECK(floats(outcome.refs[rank])[0] == static_cast<float>(rank + 1));
  }
  const auto stacked = start([&](Group& group, int rank) { return group.allgather(input(rank), true); });
  CHECK(stacked[3].ref(10s).value().shape() == muster::Shape{ranks, 8});
  const auto at_root = start([&](Group& group, int rank) { return group.gather(input(rank), 3); });
  CHECK(at_root[3].wait(10s).value().refs.size() == ranks);
  CHECK(at_root[0].wait(10s).value().refs.empty());
}

TEST_CASE_METHOD(Ranks, "scatter, reduce_scatter and all_to_all give each rank its own part") {
  std::vector<Ref> parts;
  for (int rank = 0; rank < ranks; ++rank) parts.push_back(input(rank));
  const auto scattered = start([&](Group& group, int rank) {
    return group.scatter(rank == 0 ? std::span<const Ref>(parts) : std::span<const Ref>(), 0);
  });
  for (std::size_t rank = 0; rank < ranks; ++rank)
    CHECK(floats(scattered[rank].ref(10s).value())[0] == static_cast<float>(rank + 1));
  const auto reduced = start([&](Group& group, int) { return group.reduce_scatter(parts); });
  for (std::size_t rank = 0; rank < ranks; ++rank)
    CHECK(floats(reduced[rank].ref(10s).value())[0] == 4 * static_cast<float>(rank + 1));
  const auto exchanged = start([&](Group& group, int) { return group.all_to_all(parts); });
  CHECK(floats(exchanged[2].wait(10s).value().refs.at(1))[0] == 3);
}

TEST_CASE_METHOD(Ranks, "send and recv match by peer and tag") {
  auto first = groups[0].send(input(0), 1, 5).value();
  auto second = groups[0].send(input(1), 1, 6).value();
  auto later = groups[1].recv(0, 6).value();
  auto sooner = groups[1].recv(0, 5).value();
  CHECK(floats(later.ref(10s).value())[0] == 2);
  CHECK(floats(sooner.ref(10s).value())[0] == 1);
  CHECK(first.wait(10s));
  CHECK(second.wait(10s));
}

TEST_CASE_METHOD(Ranks, "works end in any order, and a result outlives everything else") {
  std::vector<std::vector<muster::Work>> rounds;
  for (int round = 0; round < 20; ++round)
    rounds.push_back(start([&](Group& group, int rank) { return group.allreduce(input(rank + round)); }));
  for (int round = 19; round >= 0; --round)
    CHECK(floats(rounds[static_cast<std::size_t>(round)][0].ref(10s).value())[0] == static_cast<float>(10 + 4 * round));
  Ref kept = rounds[7][1].ref().value();
  rounds.clear();
  groups.clear();
  CHECK(floats(kept)[7] == 38);
}

TEST_CASE_METHOD(Ranks, "keys match ops whose order differs") {
  std::vector<muster::Work> a;
  std::vector<muster::Work> b;
  for (int rank = 0; rank < ranks; ++rank) {
    auto& group = groups[static_cast<std::size_t>(rank)];
    const auto one = [&] {
      a.push_back(group.allreduce(input(0), ReduceOp::sum, {.timeout = {}, .key = "a"}).value());
    };
    const auto two = [&] {
      b.push_back(group.allreduce(input(1), ReduceOp::sum, {.timeout = {}, .key = "b"}).value());
    };
    if (rank % 2 == 0) one(), two();
    else two(), one();
  }
  for (const auto& work : a) CHECK(floats(work.ref(10s).value())[0] == 4);
  for (const auto& work : b) CHECK(floats(work.ref(10s).value())[0] == 8);
  CHECK(groups[0].allreduce(input(0), ReduceOp::sum, {.timeout = {}, .key = std::string(5000, 'k')}).error().code() ==
        Code::invalid);
  CHECK(client.connected());
}

TEST_CASE_METHOD(Ranks, "ranks that disagree get Mismatch, all of them, and go on") {
  auto works = start([&](Group& group, int rank) { return group.allreduce(input(rank, rank == 3 ? 9 : 8)); });
  for (const auto& work : works) {
    const auto error = work.wait(10s).error();
    CHECK(error.code() == Code::mismatch);
    CHECK(error.ranks() == std::vector<int>{3});
  }
  works = start([&](Group& group, int rank) { return group.allreduce(input(rank)); });
  for (const auto& work : works) CHECK(work.wait(10s));
}

TEST_CASE_METHOD(Ranks, "split and subgroup make groups that work") {
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      auto& group = groups[static_cast<std::size_t>(rank)];
      auto half = group.split(rank % 2, -rank);
      if (!half || half->world_size() != 2 || half->rank() != (rank < 2 ? 1 : 0)) return;
      auto sum = half->allreduce(input(rank));
      if (!sum || floats(sum->ref(10s).value())[0] != (rank % 2 == 0 ? 4 : 6)) return;
      if (rank == 0 || rank == 3) {
        const int members[] = {3, 0};
        auto pair = group.subgroup(members);
        if (!pair || pair->rank() != (rank == 3 ? 0 : 1) || !pair->barrier().value().wait(10s)) return;
      }
      ++right;
    });
  for (auto& thread : threads) thread.join();
  CHECK(right == ranks);
  const int without_us[] = {1, 2};
  CHECK(groups[0].subgroup(without_us).error().code() == Code::invalid);
}

TEST_CASE_METHOD(Ranks, "a group that was left is closed") {
  REQUIRE(groups[0].leave());
  CHECK(groups[0].barrier().error().code() == Code::group_closed);
  CHECK(groups[0].leave().error().code() == Code::group_closed);
}

TEST_CASE_METHOD(Ranks, "more ops than the limit wait for room, and then time out") {
  const auto limit = 1024;
  std::vector<muster::Work> works;
  for (int i = 0; i < limit; ++i) works.push_back(groups[0].barrier().value());
  CHECK(groups[0].barrier({.timeout = 50ms, .key = {}}).error().code() == Code::timeout);
  // The op that found no room still took its place, and failed there.
  std::thread others([&] {
    for (int i = 0; i < limit + 2; ++i)
      for (int rank = 1; rank < ranks; ++rank)
        if (!groups[static_cast<std::size_t>(rank)].barrier({.timeout = 20s, .key = {}})) return;
  });
  const auto last = groups[0].barrier({.timeout = 20s, .key = {}});
  REQUIRE(last);
  CHECK(last->wait(20s));
  for (const auto& work : works) CHECK(work.wait(20s));
  others.join();
}

TEST_CASE("ops over refs need no group") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::vector<Ref> inputs;
  for (int i = 1; i <= 3; ++i) inputs.push_back(filled(client, 6, static_cast<float>(i)));
  CHECK(floats(client.allreduce_refs(inputs, ReduceOp::mean).value().ref(10s).value())[0] == 2);
  CHECK(client.allgather_refs(inputs, true).value().ref(10s).value().shape() == muster::Shape{3, 6});
  CHECK_FALSE(client.reduce_scatter_refs(inputs, 2));
  const std::vector<Ref> freed(2);
  CHECK(client.allreduce_refs(freed).error().code() == Code::object_lost);
}

TEST_CASE("an empty group or work is Invalid, not a crash") {
  Group group;
  CHECK(group.barrier().error().code() == Code::invalid);
  CHECK(group.broadcast(Ref()).error().code() == Code::invalid);
  CHECK(group.leave().error().code() == Code::invalid);
  CHECK(muster::Work().wait().error().code() == Code::invalid);
  CHECK(Ref().get().error().code() == Code::object_lost);
}

bool run_rank(const std::string& socket, int rank) {
  muster::ConnectOptions options;
  options.socket = socket;
  options.start_daemon = false;
  auto client = Client::connect(options).value();
  auto group = client.join("p", {.rank = rank, .world_size = ranks}).value();
  for (int round = 0; round < 50; ++round) {
    const Ref mine = filled(client, 10'000, static_cast<float>(rank + round));
    const auto sum = group.allreduce(mine).value().result<float>(10s).value();
    for (const float value : sum.span)
      if (value != static_cast<float>(6 + 4 * round)) return false;
  }
  return group.barrier().value().wait(10s).ok();
}

TEST_CASE("four processes") {
  const Daemon daemon;
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank)
    children.push_back(in_child([&] { return run_rank(daemon.socket(), rank); }));
  for (const pid_t child : children) CHECK(succeeded(child));
}

}  // namespace
