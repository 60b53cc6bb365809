// Turns on the control thread: one slice a round for each process, whatever its connections.
#include <catch2/catch.hpp>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "session/rounds.hpp"

using namespace musterd;

namespace {

struct Peer;
using PeerPtr = std::shared_ptr<Peer>;
using Peers = Rounds<PeerPtr>;

struct Peer {
  std::string name;
  Peers::LanePtr lane;
  int work = 0;          ///< things to do
  bool is_slow = false;  ///< each of them takes a slice
};

/// Who was served, in this order.
class World {
 public:
  PeerPtr add(const std::string& name, std::int32_t pid, int work, bool is_slow) {
    auto peer = std::make_shared<Peer>(Peer{name, rounds.lane_of(pid), work, is_slow});
    rounds.add(peer);
    return peer;
  }
  std::vector<std::string> round() {
    std::vector<std::string> served;
    rounds.round([](const Peer& peer) { return peer.work > 0; },
                 [&](const PeerPtr& peer, Slice& slice) {
                   served.push_back(peer->name);
                   --peer->work;
                   if (peer->is_slow) slice.end();
                   if (on_served) on_served(peer);
                 });
    return served;
  }
  ~World() { rounds.clear(); }
  Peers rounds;
  std::function<void(const PeerPtr&)> on_served;
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("the connections of one process share one slice in each round, in turn") {
  World world;
  for (int i = 0; i < 20; ++i) world.add("greedy " + std::to_string(i), 1, 1000, true);
  const auto modest = world.add("modest", 2, 1000, false);
  std::map<std::string, int> served;
  for (int i = 0; i < 40; ++i) {
    const auto names = world.round();
    CHECK(names.size() == 2);
    for (const auto& name : names) ++served[name];
  }
  CHECK(served["modest"] == 40);
  for (int i = 0; i < 20; ++i) CHECK(served["greedy " + std::to_string(i)] == 2);
}

TEST_CASE("connections that leave something of the slice leave it to others of their process") {
  World world;
  for (const char* name : {"a", "b", "c"}) world.add(name, 1, 1, false);
  CHECK(world.round() == Names{"a", "b", "c"});
  CHECK(world.round().empty());
}

TEST_CASE("who has little to do comes first, however many processes have much to do") {
  World world;
  for (int i = 0; i < 100; ++i) world.add("greedy " + std::to_string(i), 1 + i, 1000, true);
  for (int i = 0; i < 30; ++i) world.round();
  const auto modest = world.add("modest", 1000, 0, false);
  std::map<std::string, int> served;
  for (int i = 0; i < 200; ++i) {
    modest->work = 1;
    const auto names = world.round();
    REQUIRE(names.front() == "modest");
    REQUIRE(names.size() <= 5);
    for (const auto& name : names) ++served[name];
  }
  // The others have what is left in turn.
  for (int i = 0; i < 100; ++i) CHECK(served["greedy " + std::to_string(i)] == 8);
}

TEST_CASE("processes that the daemon can't see are taken for different ones") {
  World world;
  world.add("a", 0, 1, true);
  world.add("b", 0, 1, true);
  CHECK(world.round().size() == 2);
}

TEST_CASE("connections come and go while they have their turn") {
  World world;
  std::vector<PeerPtr> peers;
  for (int i = 0; i < 6; ++i) peers.push_back(world.add(std::to_string(i), 1 + i % 2, 100, i % 3 == 0));
  int next = 0;
  world.on_served = [&](const PeerPtr& peer) {
    if (next++ % 3 == 0) world.rounds.remove(peer);
    if (next % 4 == 0 && next < 40) peers.push_back(world.add("new " + std::to_string(next), 3 + next, 1, false));
  };
  for (int i = 0; i < 100; ++i) world.round();
  int left = 0;
  world.rounds.for_each([&](const PeerPtr& peer) { left += peer->work; });
  CHECK(left == 0);
}

TEST_CASE("the clock is asked after something long, or many quick things") {
  Slice slice;
  for (int i = 0; i < 15; ++i) slice.spend(Slice::Cost::quick);
  CHECK(slice.lasts());
  CHECK_FALSE(slice.over());
  const auto begin = Clock::now();
  do slice.spend(Slice::Cost::any);
  while (slice.lasts());
  CHECK(slice.over());
  CHECK(Clock::now() - begin >= Slice::length);
}
