// Turns on the control thread: which process has one, for how long, and who waits for whom.
#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "session/rounds.hpp"

using namespace musterd;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

struct Peer;
using PeerPtr = std::shared_ptr<Peer>;
using Peers = Rounds<PeerPtr>;

struct Peer {
  std::string name;
  Peers::TurnsPtr turns;
  int work = 0;   ///< items of work to do
  Duration each;  ///< how long each of them takes
  Duration had{};
};

constexpr Duration quick = microseconds(3);
constexpr Duration slow = microseconds(700);

/// A clock that moves only while a process is served.
class World {
 public:
  PeerPtr add(const std::string& name, std::int32_t pid, int work, Duration each, std::uint32_t user = 1) {
    auto peer = std::make_shared<Peer>(Peer{name, rounds.turns_of(user, pid, now), work, each});
    rounds.add(peer);
    return peer;
  }
  /// Returns who was served, in this order.
  std::vector<std::string> round() {
    std::vector<std::string> served;
    rounds.round(
        now, [](const Peer& peer) { return peer.work > 0; },
        [&](const PeerPtr& peer, Slice& slice) {
          served.push_back(peer->name);
          --peer->work;
          now += peer->each;
          peer->had += peer->each;
          if (on_served) on_served(peer);
          slice.spend(Slice::Cost::any);
        });
    now += microseconds(1);
    return served;
  }
  ~World() { rounds.clear(); }
  TimePoint now{seconds(1000)};
  Duration away{};  ///< how long the thread had no core
  Peers rounds{RoundsClock{[this] { return now; }, [this] { return now.time_since_epoch() - away; }}};
  std::function<void(const PeerPtr&)> on_served;
};

using Names = std::vector<std::string>;
constexpr int much = 1'000'000'000;

/// Something comes for `peer`. Returns how long it takes until that is done.
Duration wait_of(World& world, const PeerPtr& peer) {
  const TimePoint came = world.now;
  TimePoint done;
  peer->work = 1;
  world.on_served = [&](const PeerPtr& served) {
    if (served == peer) done = world.now;
  };
  while (peer->work > 0) world.round();
  world.on_served = {};
  return done - came;
}

/// The process shows that its turns are short.
void prove_short(World& world, const PeerPtr& peer) {
  for (int i = 0; i < 4000; ++i) wait_of(world, peer), world.now += microseconds(500);
}

void run_for(World& world, Duration duration) {
  for (const auto end = world.now + duration; world.now < end;) world.round();
}

}  // namespace

TEST_CASE("the connections of one process share one slice in each round, in turn") {
  World world;
  std::vector<PeerPtr> greedy;
  for (int i = 0; i < 20; ++i) greedy.push_back(world.add("greedy", 1, much, Slice::length));
  const auto modest = world.add("modest", 2, much, Slice::length);
  for (int i = 0; i < 40; ++i) CHECK(world.round().size() == 2);
  CHECK(modest->had == 40 * Slice::length);
  for (const auto& each : greedy) CHECK(each->had == 2 * Slice::length);
}

TEST_CASE("the rest of a slice that a connection leaves goes to others of its process") {
  World world;
  for (const char* name : {"a", "b", "c"}) world.add(name, 1, 1, quick);
  CHECK(world.round() == Names{"a", "b", "c"});
  CHECK(world.round().empty());
}

TEST_CASE("one long thing is a whole slice") {
  World world;
  world.add("a", 1, 2, slow);
  world.add("b", 1, 2, slow);
  CHECK(world.round() == Names{"a"});
  CHECK(world.round() == Names{"b"});
}

TEST_CASE("a round ends after its time, however many processes have work, and however little each has") {
  World world;
  const auto each = GENERATE(quick, Duration(microseconds(50)), slow);
  for (int i = 0; i < 2000; ++i) world.add("busy", 1 + i, much, each);
  for (int i = 0; i < 100; ++i) {
    const TimePoint begin = world.now;
    world.round();
    CHECK(world.now - begin <= Peers::length + 2 * std::max(each, Slice::length) + milliseconds(1) / 100);
  }
}

TEST_CASE("a process that costs little goes first, however many processes of its user have long requests") {
  World world;
  const auto modest = world.add("modest", 1000, 0, quick);
  // It has cost more in all than each of the others.
  prove_short(world, modest);
  for (int i = 0; i < 200; ++i) world.add("greedy", 1 + i, much, slow);
  for (int i = 0; i < 1000; ++i) {
    CHECK(wait_of(world, modest) <= Peers::length + 2 * slow + quick);
    if (i == 0) run_for(world, slow * 200);
  }
}

TEST_CASE("a process that costs little goes first, even when idle processes ask for much at the same moment") {
  World world;
  const bool of_another_user = GENERATE(false, true);
  const auto modest = world.add("modest", 1000, 0, quick);
  const auto busy = world.add("busy", 1001, 0, slow);
  prove_short(world, modest);
  std::vector<PeerPtr> greedy;
  for (int i = 0; i < 200; ++i) greedy.push_back(world.add("greedy", 1 + i, 1, slow, of_another_user ? 2U : 1U));
  for (int i = 0; i < 20; ++i) {
    // Meanwhile another process of its user has cost much.
    busy->work = 300;
    while (!world.round().empty()) {
    }
    world.now += seconds(of_another_user ? 0 : 10);
    for (const auto& peer : greedy) peer->work = 1;
    while (greedy.back()->work > 0 || greedy.front()->work > 0)
      CHECK(wait_of(world, modest) <= 2 * (Peers::length + 2 * slow) + quick);
  }
}

TEST_CASE("a process is not charged for time that others had the core in its turn") {
  World world;
  const auto modest = world.add("modest", 1, 2, quick);
  const auto pause = [&](const PeerPtr&) { world.now += seconds(1), world.away += seconds(1); };
  world.on_served = pause;
  world.now += seconds(1);
  world.round();
  CHECK(modest->turns->cost.sum() <= RecentCost::of_turn(quick));
  // It is not charged for what they took before either.
  world.on_served = {};
  pause(modest);
  modest->each = slow;
  world.round();
  CHECK(modest->turns->cost.sum() >= RecentCost::of_turn(slow));
}

TEST_CASE("processes that connect again for each request gain nothing") {
  World world;
  const auto modest = world.add("modest", 1'000'000, 0, quick);
  int pid = 0;
  std::vector<PeerPtr> greedy;
  const auto renew = [&] {
    std::erase_if(greedy, [&](const PeerPtr& peer) {
      if (peer->work > 0) return false;
      world.rounds.remove(peer);
      return true;
    });
    while (greedy.size() < 200) greedy.push_back(world.add("greedy", ++pid, 1, slow));
  };
  renew();
  run_for(world, seconds(1));
  Duration longest{};
  for (int i = 0; i < 1000; ++i) {
    renew();
    longest = std::max(longest, wait_of(world, modest));
  }
  CHECK(longest <= Peers::length + 2 * slow + quick);
  CHECK(pid > 1000);
}

TEST_CASE("a newcomer is not behind all others") {
  World world;
  std::vector<PeerPtr> greedy;
  for (int i = 0; i < 200; ++i) greedy.push_back(world.add("greedy", 1 + i, much, slow));
  run_for(world, seconds(2));
  const auto newcomer = world.add("newcomer", 1000, 0, slow);
  std::size_t less = 0;
  for (const auto& peer : greedy) peer->turns->cost.forget(world.now);
  for (const auto& peer : greedy) less += peer->turns->cost.sum() < newcomer->turns->cost.sum();
  CHECK(less > 20);
  CHECK(less < 180);
}

TEST_CASE("users share the time, however many processes each has") {
  World world;
  std::map<std::uint32_t, std::vector<PeerPtr>> peers;
  int pid = 0;
  const std::map<std::uint32_t, int> processes{{1U, 100}, {2U, 3}, {3U, 1}};
  for (const auto& [user, count] : processes)
    for (int i = 0; i < count; ++i) peers[user].push_back(world.add("busy", ++pid, much, slow, user));
  run_for(world, seconds(20));
  std::map<std::uint32_t, Duration> had;
  for (const auto& [user, of_user] : peers)
    for (const auto& peer : of_user) had[user] += peer->had;
  for (const auto& [user, time] : had) {
    INFO("user " << user << " had " << time / milliseconds(1) << " ms");
    CHECK(time > seconds(20) / 5);
    // Within a user, its processes share the time.
    for (const auto& peer : peers[user]) CHECK(peer->had > time / processes.at(user) / 2);
  }
}

TEST_CASE("nobody starves: a process that costs much has its turns among many that cost little") {
  World world;
  for (int i = 0; i < 1000; ++i) world.add("cheap", 1 + i, much, quick);
  const auto dear = world.add("dear", 2000, much, slow, GENERATE(1U, 2U));
  run_for(world, seconds(1));
  const Duration before = dear->had;
  run_for(world, seconds(4));
  // That is one in a thousand and one.
  CHECK(dear->had - before > seconds(4) / 1001);
}

TEST_CASE("whatever happens, processes that cost little wait little, and all have their turns") {
  const auto seed = GENERATE(range(1U, 21U));
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](std::size_t end) { return static_cast<std::uint32_t>(random() % end); };
  World world;
  struct Modest {
    PeerPtr peer;
    Duration longest{};
  };
  std::vector<PeerPtr> peers;
  std::int32_t pid = 0;
  const auto come = [&] {
    const Duration each = microseconds(5 + below(700));
    peers.push_back(world.add("some", ++pid, static_cast<int>(below(30)), each, below(3) + 1));
  };
  std::vector<Modest> modest;
  for (std::uint32_t user = 1; user <= 3; ++user) {
    modest.push_back({world.add("modest", ++pid, 0, quick, user)});
    prove_short(world, modest.back().peer);
  }
  for (int i = 0; i < 100; ++i) come();
  run_for(world, seconds(1));
  for (int i = 0; i < 600; ++i) {
    for (auto& [peer, longest] : modest) longest = std::max(longest, wait_of(world, peer));
    // Others come, ask and go.
    for (auto& peer : peers)
      if (peer->work == 0 && below(10) == 0) peer->work = static_cast<int>(below(30));
    if (below(4) == 0) {
      auto& going = peers[below(peers.size())];
      world.rounds.remove(going);
      std::swap(going, peers.back());
      peers.pop_back();
      come();
    }
  }
  for (const auto& each : modest) CHECK(each.longest <= 2 * (Peers::length + 2 * slow) + quick);
  // In the end every process has had its work done.
  std::size_t rounds = 0;
  std::size_t most = 0;
  for (const auto& peer : peers) most += static_cast<std::size_t>(peer->work);
  while (!world.round().empty()) REQUIRE(++rounds <= most);
  for (const auto& peer : peers) CHECK(peer->work == 0);
}

TEST_CASE("what a turn costs is forgotten") {
  RecentCost cost;
  TimePoint now{seconds(1000)};
  cost.add(RecentCost::of_turn(slow), now);
  CHECK(cost.sum() == 700'000);
  now += milliseconds(500);
  cost.add(0, now);
  CHECK(cost.sum() == 350'000);
  cost.forget(now + seconds(1));
  CHECK(cost.sum() == 87'500);
  cost.forget(now + std::chrono::hours(1));
  CHECK(cost.sum() == 0);
  CHECK(1000 * RecentCost::of_turn(microseconds(5)) == 125'000);
  CHECK(RecentCost::of_turn(Duration(-1)) == 0);
}

TEST_CASE("processes that the daemon can't see count as different ones, and so do those of two users") {
  World world;
  world.add("a", 0, 1, slow);
  world.add("b", 0, 1, microseconds(250));
  world.add("c", 7, 1, microseconds(10), 1);
  world.add("d", 7, 1, microseconds(10), 2);
  CHECK(world.round().size() == 4);
}

TEST_CASE("nobody has two turns in a round, or none, as others come and go meanwhile") {
  World world;
  std::map<std::string, PeerPtr> peers;
  int pid = 0;
  const Duration each = GENERATE(quick, Slice::length);
  for (const char* name : {"a", "b", "c", "d"}) peers[name] = world.add(name, ++pid, 10, *name == 'c' ? each : quick);
  const auto come = [&] { world.add("new", ++pid, 10, quick); };
  const auto go = [&](const char* name) { world.rounds.remove(peers[name]); };
  std::map<std::string, std::function<void()>> then;
  world.on_served = [&](const PeerPtr& peer) {
    if (const auto found = then.find(peer->name); found != then.end()) std::exchange(found->second, [] {})();
  };
  const auto names_of_round = [&] {
    auto names = world.round();
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
  };
  SECTION("one comes") {
    then["c"] = come;
    CHECK(names_of_round() == Names{"a", "b", "c", "d"});
    then.clear();
    CHECK(names_of_round() == Names{"a", "b", "c", "d", "new"});
  }
  SECTION("one comes, and another one that was served goes") {
    then["c"] = [&] { come(), go("a"); };
    CHECK(names_of_round() == Names{"a", "b", "c", "d"});
  }
  SECTION("one that was not served goes") {
    then["c"] = [&] { go("d"); };
    CHECK(names_of_round() == Names{"a", "b", "c"});
  }
  SECTION("one comes and goes itself") {
    then["c"] = [&] { come(), go("c"); };
    CHECK(names_of_round() == Names{"a", "b", "c", "d"});
    then.clear();
    CHECK(names_of_round() == Names{"a", "b", "d", "new"});
  }
  SECTION("one goes and comes back") {
    then["c"] = [&] { go("c"), world.rounds.add(peers["c"]); };
    CHECK(names_of_round() == Names{"a", "b", "c", "d"});
  }
}

TEST_CASE("connections come and go while they have their turn") {
  World world;
  constexpr int rounds = 100;
  std::map<std::string, PeerPtr> here;
  int came = 0;
  // All have their turns in each round, and do one item of work in it.
  const auto come = [&] {
    const auto name = std::to_string(++came);
    here[name] = world.add(name, came, rounds, Duration{});
  };
  for (int i = 0; i < 6; ++i) come();
  int next = 0;
  std::map<std::string, int> turns;
  world.on_served = [&](const PeerPtr& peer) {
    ++turns[peer->name];
    if (++next % 3 == 0 && here.size() > 4 && peer->name != "1") {
      world.rounds.remove(peer);
      here.erase(peer->name);
      peer->work = 0;
    }
    if (next % 4 == 0 && came < 40) come();
  };
  while (here.contains("1") && here["1"]->work > 0) {
    const auto before = here;
    world.round();
    for (const auto& [name, peer] : before)
      if (here.contains(name)) CHECK(turns[name] > 0);
  }
  CHECK(came == 40);
}

TEST_CASE("records of a process end with its last connection, and records of a user with its last process") {
  Peers rounds({[] { return TimePoint{}; }, [] { return Duration{}; }});
  const TimePoint now{seconds(1000)};
  const auto first = rounds.turns_of(1, 7, now);
  CHECK(rounds.turns_of(1, 7, now) == first);
  const std::weak_ptr<Peers::Turns> ended = rounds.turns_of(1, 8, now);
  CHECK(ended.expired());
  auto fresh = rounds.turns_of(1, 8, now);
  auto other = rounds.turns_of(2, 8, now);
  CHECK(rounds.turns_of(1, 8, now) == fresh);
  CHECK(first->known->processes.size() == 3);
  CHECK(first->known->users.size() == 2);
  fresh.reset();
  other.reset();
  CHECK(first->known->processes.size() == 1);
  CHECK(first->known->users.size() == 1);
}

TEST_CASE("the clock is read after long work, or after many short items") {
  int asked = 0;
  TimePoint now{seconds(1000)};
  const RoundsClock clock{[&] { return ++asked, now; }, [] { return Duration{}; }};
  Slice slice(clock, now);
  for (int i = 0; i < 15; ++i) slice.spend(Slice::Cost::quick);
  CHECK(slice.lasts());
  CHECK(asked == 0);
  slice.spend(Slice::Cost::any);
  CHECK(slice.lasts());
  CHECK(asked == 1);
  CHECK_FALSE(slice.over());
  now += Slice::length;
  for (int i = 0; i < 16; ++i) slice.spend(Slice::Cost::quick);
  CHECK_FALSE(slice.lasts());
  CHECK(slice.over());
}

TEST_CASE("costs add up even if readers of the clock disagree on the time") {
  constexpr Duration half_life = milliseconds(500);
  constexpr std::uint64_t most = 1'000'000;
  std::mt19937 random(7);
  RecentCost cost;
  TimePoint now{seconds(1000)};
  cost.add(most, now);
  cost.forget(now - half_life);  // as for a turn that began before the last one ended
  CHECK(cost.sum() == most);
  std::uint64_t before = cost.sum();
  for (int i = 0; i < 10'000; ++i) {
    now += milliseconds(random() % 700U);
    cost.forget(now - milliseconds(random() % 2000U));
    CHECK(cost.sum() <= before);
    const std::uint64_t kept = cost.sum();
    const std::uint64_t added = random() % most;
    cost.add(added, now);
    CHECK(cost.sum() <= kept + added);
    before = cost.sum();
  }
}
