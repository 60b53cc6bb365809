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

void use_up(Slice& slice) {
  do slice.spend(Slice::Cost::any);
  while (slice.lasts());
}

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
                   if (peer->is_slow) use_up(slice);
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

TEST_CASE("nobody has two turns in a round, or none, as others come and go meanwhile") {
  World world;
  const bool is_slow = GENERATE(false, true);
  std::map<std::string, PeerPtr> peers;
  int pid = 0;
  for (const char* name : {"d", "c", "b", "a"}) peers[name] = world.add(name, ++pid, 10, is_slow && *name == 'c');
  const auto come = [&] { world.add("new", ++pid, 10, false); };
  const auto go = [&](const char* name) { world.rounds.remove(peers[name]); };
  std::map<std::string, std::function<void()>> then;
  world.on_served = [&](const PeerPtr& peer) {
    if (const auto found = then.find(peer->name); found != then.end()) found->second();
  };
  SECTION("one comes") {
    then["c"] = come;
    CHECK(world.round() == Names{"a", "b", "c", "d"});
    then.clear();
    CHECK(world.round() == (is_slow ? Names{"new", "a", "b", "d", "c"} : Names{"new", "a", "b", "c", "d"}));
  }
  SECTION("one comes and another goes, which was served") {
    then["c"] = [&] { come(), go("a"); };
    CHECK(world.round() == Names{"a", "b", "c", "d"});
  }
  SECTION("one goes that was not served") {
    then["c"] = [&] { go("d"); };
    CHECK(world.round() == Names{"a", "b", "c"});
  }
  SECTION("one comes and goes itself") {
    then["c"] = [&] { come(), go("c"); };
    CHECK(world.round() == Names{"a", "b", "c", "d"});
    then.clear();
    CHECK(world.round() == Names{"new", "a", "b", "d"});
  }
  SECTION("one goes and comes again") {
    then["c"] = [&] { go("c"), world.rounds.add(peers["c"]); };
    CHECK(world.round() == Names{"a", "b", "c", "d"});
  }
}

TEST_CASE("connections come and go while they have their turn") {
  World world;
  constexpr int rounds = 100;
  std::map<std::string, PeerPtr> here;
  int came = 0;
  const auto come = [&](bool is_slow) {
    const auto name = std::to_string(++came);
    here[name] = world.add(name, came, rounds, is_slow);
  };
  for (int i = 0; i < 6; ++i) come(i % 3 == 0);  // all have their turns in each round, also the slow ones
  int next = 0;
  world.on_served = [&](const PeerPtr& peer) {
    if (++next % 3 == 0 && here.size() > 4 && !peer->is_slow) {
      world.rounds.remove(peer);
      here.erase(peer->name);
    }
    if (next % 4 == 0 && came < 40) come(false);
  };
  std::map<std::string, int> expected;  // of those that never went
  for (int i = 0; i < rounds; ++i) {
    const auto before = here;
    world.round();
    for (const auto& [name, peer] : before) {
      INFO("round " << i << ", " << name);
      if (here.contains(name)) CHECK(rounds - peer->work == ++expected[name]);
    }
  }
  CHECK(came == 40);
  CHECK(expected["1"] == rounds);
}

TEST_CASE("what is known of a process ends with its last connection") {
  Peers rounds;
  const auto first = rounds.lane_of(7);
  CHECK(rounds.lane_of(7) == first);
  std::weak_ptr<Peers::Lane> ended = rounds.lane_of(8);
  CHECK(ended.expired());
  auto fresh = rounds.lane_of(8);
  CHECK(rounds.lane_of(8) == fresh);
  CHECK(first->lanes->size() == 2);
  fresh.reset();
  CHECK(first->lanes->size() == 1);
}

TEST_CASE("the clock is asked after something long, or many quick things") {
  Slice slice;
  for (int i = 0; i < 15; ++i) slice.spend(Slice::Cost::quick);
  CHECK(slice.lasts());
  CHECK_FALSE(slice.over());
  const auto begin = Clock::now();
  use_up(slice);
  CHECK(slice.over());
  CHECK(Clock::now() - begin >= Slice::length);
}
