// Random lives of objects against a model that knows who keeps each object. Nothing that is kept ends, and nothing else
// stays. Each end is told once, segments know their objects, and in the end nothing is charged. Moved objects are found
// by the place that the model knows, which is their first one.
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <set>

#include "ipc/random.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

constexpr UserId user = 1000;
constexpr auto pickle_lease = std::chrono::seconds(20);

/// What the model knows about one object.
struct Kept {
  std::map<ClientId, int> holds;
  std::optional<TimePoint> pinned_until;
  int ops = 0;
  ObjectId whole;
  Manifest manifest;
  bool is_result = false;
  bool has_moved = false;
};

class Lives {
 public:
  explicit Lives(std::uint64_t seed) : random_(seed), world_(Store::Limits{.pickle_lease = pickle_lease}) {}

  void step() {
    switch (random_.between(0, 12)) {
      case 0:
      case 1: seal(); break;
      case 2: cut(); break;
      case 3: publish(); break;
      case 4: look_up(); break;
      case 5: release(); break;
      case 6: pin(); break;
      case 7: begin_op(); break;
      case 8: end_op(); break;
      case 9: pass_time(); break;
      case 10:
        if (random_.chance(0.2)) die();
        break;
      case 11: move(); break;
      default: inherit(); break;
    }
    compare();
  }

  void end_everything() {
    ops_.clear();
    for (auto& [id, kept] : alive_) kept.ops = 0;
    while (!clients_.empty()) kill(clients_.begin()->first);
    while (!heirs_.empty()) end_of(heirs_.back());
    world_.now += pickle_lease;
    world_.store.pickles().expire(world_.now);
    for (auto& [id, kept] : alive_) kept.pinned_until.reset();
    compare();
    CHECK(alive_.empty());
    CHECK(world_.results.used_bytes() == 0);
    world_.results.trim();
    CHECK(holds_nothing(world_.ledger));
    CHECK(world_.segments.size() == 0);
    CHECK_FALSE(world_.store.pickles().next_deadline());
  }

 private:
  struct Process {
    SegmentId segment;
  };

  ClientId some_client() {
    if (clients_.size() < 3 || random_.chance(0.02)) {
      const ClientId client{++last_client_};
      clients_[client] = {world_.segment_of({user, client})};
      return client;
    }
    return std::next(clients_.begin(), static_cast<long>(random_.between(0, clients_.size() - 1)))->first;
  }
  ObjectId some_object() {
    if (alive_.empty()) return {};
    return std::next(alive_.begin(), static_cast<long>(random_.between(0, alive_.size() - 1)))->first;
  }
  Kept& known(ObjectId id, Manifest manifest) {
    auto& kept = alive_[id];
    kept.manifest = std::move(manifest);
    return kept;
  }

  void seal() {
    const auto client = some_client();
    const auto count = static_cast<std::int64_t>(random_.between(8, 64));
    auto manifest = array(clients_[client].segment, random_.between(0, 100) * 64, count);
    const auto id = world_.seal({user, client}, manifest);
    known(id, manifest).holds[client] = 1;
  }
  void cut() {
    const auto client = some_client();
    const auto whole = some_object();
    if (!whole) return;
    const auto& leaf = alive_[whole].manifest.leaves[0];
    const auto skipped = random_.between(0, leaf.count - 1);
    auto manifest = array(leaf.segment, leaf.offset + skipped * sizeof(float),
                          static_cast<std::int64_t>(random_.between(1, leaf.count - skipped)));
    auto part = world_.try_seal({user, client}, manifest, whole);
    REQUIRE(part.ok() == alive_[whole].holds.contains(client));
    if (!part) return;
    const auto root = alive_[whole].whole ? alive_[whole].whole : whole;
    auto& kept = known((*part)->id, manifest);
    kept.holds[client] = 1;
    kept.whole = root;
  }
  void publish() {
    auto result = world_.result(user, static_cast<std::int64_t>(random_.between(1, 3000)));
    known(result->id, result->manifest).is_result = true;
    for (std::uint64_t n = random_.between(0, 3); n > 0; --n) {
      const auto client = some_client();
      REQUIRE(world_.store.holds().add(result, {user, client}));
      ++alive_[result->id].holds[client];
    }
  }
  void move() {
    const auto id = some_object();
    if (!id) return;
    auto& kept = alive_[id];
    const bool is_whole = !kept.whole && !kept.is_result && !kept.has_moved;
    if (!is_whole) return;
    const bool has_parts =
        std::any_of(alive_.begin(), alive_.end(), [&](const auto& each) { return each.second.whole == id; });
    const bool is_kept_by_store = !kept.holds.empty() || kept.pinned_until;
    const auto from = world_.segments.find(kept.manifest.leaves[0].segment);
    auto move = world_.store.begin_move(id, from);
    const bool is_inherited = std::any_of(kept.holds.begin(), kept.holds.end(),
                                          [](const auto& hold) { return hold.first.value >= first_heir; });
    REQUIRE(move.has_value() == (kept.ops == 0 && !has_parts && !is_inherited && is_kept_by_store));
    if (!move) return;
    move->to = world_.results.allocate(user, move->bytes).value();
    REQUIRE(world_.store.finish_move(std::move(*move)));
    kept.has_moved = true;
  }
  void look_up() {
    const auto client = some_client();
    // Uses objects that are gone, too.
    if (!gone_.empty() && random_.chance(0.3)) {
      const auto id = *std::next(gone_.begin(), static_cast<long>(random_.between(0, gone_.size() - 1)));
      CHECK(code_of(world_.store.lookup(id, secret, {user, client})) == Code::object_lost);
    } else if (const auto id = some_object()) {
      REQUIRE(world_.store.lookup(id, secret, {user, client}));
      ++alive_[id].holds[client];
    }
  }
  void release() {
    const auto client = some_client();
    const auto id = some_object();
    if (!id) return;
    auto& holds = alive_[id].holds;
    REQUIRE(world_.store.holds().release(id, client).ok() == holds.contains(client));
    if (holds.contains(client) && --holds[client] == 0) holds.erase(client);
  }
  void pin() {
    const auto client = some_client();
    const auto id = some_object();
    if (!id) return;
    const bool holds = alive_[id].holds.contains(client);
    REQUIRE(world_.store.pin(id, {user, client}, world_.now).ok() == holds);
    if (holds) alive_[id].pinned_until = world_.now + pickle_lease;
  }
  void begin_op() {
    const auto client = some_client();
    const auto id = some_object();
    if (!id) return;
    auto lease = world_.store.held(id, {user, client});
    REQUIRE(lease.ok() == alive_[id].holds.contains(client));
    if (!lease) return;
    ops_.push_back(std::move(*lease));
    ++alive_[id].ops;
  }
  void end_op() {
    if (ops_.empty()) return;
    std::swap(ops_[random_.between(0, ops_.size() - 1)], ops_.back());
    const ObjectPtr ending = std::move(ops_.back());
    ops_.pop_back();
    --alive_[ending->id].ops;
    if (random_.chance(0.5)) return;
    const auto client = some_client();
    REQUIRE(world_.store.holds().add(ending, {user, client}));
    ++alive_[ending->id].holds[client];
  }
  void pass_time() {
    world_.now += std::chrono::seconds(random_.between(0, 10));
    world_.store.pickles().expire(world_.now);
    for (auto& [id, kept] : alive_)
      if (kept.pinned_until && *kept.pinned_until <= world_.now) kept.pinned_until.reset();
  }
  void die() {
    if (!clients_.empty()) kill(some_client());
  }
  void kill(ClientId client) {
    clients_.erase(client);
    world_.store.holds().drop_client(client);
    world_.segments.drop_client(client);
    for (auto& [id, kept] : alive_) kept.holds.erase(client);
  }
  void inherit() {
    if (!heirs_.empty() && random_.chance(0.5)) return end_of(heirs_[random_.between(0, heirs_.size() - 1)]);
    const auto from = some_client();
    const ClientId heir{++last_heir_};
    heirs_.push_back(heir);
    world_.store.holds().inherit(from, heir);
    for (auto& [id, kept] : alive_)
      if (kept.holds.contains(from)) ++kept.holds[heir];
  }
  void end_of(ClientId heir) {
    std::erase(heirs_, heir);
    world_.store.holds().drop_client(heir);
    for (auto& [id, kept] : alive_) kept.holds.erase(heir);
  }

  [[nodiscard]] bool is_kept(const Kept& kept) const {
    return !kept.holds.empty() || kept.pinned_until || kept.ops > 0;
  }
  void compare() {
    std::set<ObjectId> wholes;
    for (const auto& [id, kept] : alive_)
      if (is_kept(kept) && kept.whole) wholes.insert(kept.whole);
    std::set<ObjectId> expected;
    for (const auto& [id, kept] : alive_)
      if (!is_kept(kept) && !wholes.contains(id)) expected.insert(id);
    std::set<ObjectId> told;
    while (const auto gone = world_.store.take_gone()) {
      CHECK(gone->maker == ipc::maker_of(gone->id));
      CHECK(told.insert(gone->id).second);
    }
    REQUIRE(told == expected);
    for (const auto id : told) alive_.erase(id);
    gone_.insert(told.begin(), told.end());
    REQUIRE(world_.store.size() == alive_.size());
    REQUIRE(world_.ledger.total().used[static_cast<std::size_t>(Resource::objects)] == alive_.size());
    std::map<ClientId, std::uint64_t> held;
    for (const auto& [id, kept] : alive_)
      for (const auto& [client, holds] : kept.holds) ++held[client];
    for (const auto& [client, process] : clients_) REQUIRE(world_.store.holds().held_by(client) == held[client]);
    compare_segments();
  }
  void compare_segments() {
    struct Live {
      std::size_t objects = 0;
      std::uint64_t bytes = 0;
    };
    std::map<SegmentId, Live> live;
    for (const auto& [client, process] : clients_) live[process.segment] = {};
    for (const auto& [id, kept] : alive_) {
      if (kept.whole || kept.is_result || kept.has_moved) continue;
      auto& [objects, bytes] = live[kept.manifest.leaves[0].segment];
      ++objects;
      bytes += kept.manifest.bytes();
    }
    for (const auto& [id, expected] : live) {
      const auto segment = world_.segments.find(id);
      REQUIRE(segment);
      REQUIRE(segment->live_objects() == expected.objects);
      REQUIRE(segment->live_bytes() == expected.bytes);
    }
  }

  muster::ipc::test::Random random_;
  StoreWorld world_;
  std::map<ClientId, Process> clients_;
  std::uint32_t last_client_ = 0;
  std::vector<ClientId> heirs_;
  static constexpr std::uint32_t first_heir = 0xf000'0000;
  std::uint32_t last_heir_ = first_heir;
  std::map<ObjectId, Kept> alive_;
  std::set<ObjectId> gone_;
  std::vector<ObjectPtr> ops_;
};

}  // namespace

TEST_CASE("objects live exactly as long as something keeps them") {
  const auto seed = GENERATE(range<std::uint64_t>(1, 21));
  INFO("seed " << seed);
  Lives lives(seed);
  for (int step = 0; step < 1500; ++step) lives.step();
  lives.end_everything();
}
