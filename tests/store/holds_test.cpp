#include <catch2/catch.hpp>

#include "memory/quotas.hpp"
#include "store/entries.hpp"
#include "store/holds.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

constexpr UserId user = 1000;
constexpr Payer alice{user, {1}};  // who makes the objects of Entries
constexpr Payer bob{user, {2}};
constexpr Payer carol{user + 1, {3}};
constexpr ClientId heir{0xf000'0001};

struct HoldsWorld {
  StoreEntry& held_by(Payer client) {
    const auto object = entries.make();
    REQUIRE(holds.add(object, client));
    return *object->entry;
  }
  void hold(StoreEntry& entry, Payer client) { REQUIRE(holds.add(entry.weak.lock(), client)); }

  Entries entries;
  Ledger ledger{memory_quota(mebibyte)};
  Pickles pickles{std::chrono::minutes(10)};
  Holds holds{ledger, pickles};
};

}  // namespace

TEST_CASE("an object goes with its last hold") {
  HoldsWorld world;
  StoreEntry& entry = world.held_by(alice);
  world.hold(entry, bob);
  CHECK(world.holds.held_by(alice.client) == 1);
  CHECK(world.holds.find(bob.client, entry.id));
  CHECK_FALSE(world.holds.find(carol.client, entry.id));
  REQUIRE(world.holds.release(entry.id, alice.client));
  CHECK(lives(entry));
  CHECK(code_of(world.holds.release(entry.id, alice.client)) == Code::invalid);
  CHECK(code_of(world.holds.release(entry.id, carol.client)) == Code::invalid);
  REQUIRE(world.holds.release(entry.id, bob.client));
  CHECK_FALSE(lives(entry));
  CHECK(entry.end_reason == std::string("freed: every hold of it was given up"));
}

TEST_CASE("the reason of an end says whether the owner died or another holder") {
  HoldsWorld world;
  StoreEntry& owned = world.held_by(alice);
  StoreEntry& held = world.held_by(bob);
  world.holds.drop_client(alice.client);
  CHECK_FALSE(lives(owned));
  CHECK(owned.end_reason == std::string("its owner died"));
  world.holds.drop_client(bob.client);
  CHECK_FALSE(lives(held));
  CHECK(held.end_reason == std::string("freed: its last holder died"));
}

TEST_CASE("a pickle lease keeps an object after its last hold, and is counted then") {
  HoldsWorld world;
  StoreEntry& entry = world.held_by(alice);
  world.pickles.pin(entry, start);
  CHECK(world.pickles.bytes() == 0);
  REQUIRE(world.holds.release(entry.id, alice.client));
  CHECK(lives(entry));
  CHECK(world.pickles.bytes() == 100);
  world.hold(entry, bob);
  CHECK(world.pickles.bytes() == 0);
  world.holds.drop_client(bob.client);
  CHECK(world.pickles.bytes() == 100);
  world.pickles.expire(start + std::chrono::minutes(10));
  CHECK_FALSE(lives(entry));
}

TEST_CASE("very many holds of a client end in pieces") {
  constexpr std::size_t objects = 1200;
  HoldsWorld world;
  std::vector<StoreEntry*> all;
  for (std::size_t i = 0; i < objects; ++i) all.push_back(&world.held_by(alice));
  const auto left = [&] { return std::ranges::count_if(all, [](const auto* entry) { return lives(*entry); }); };
  world.holds.drop_client(alice.client);
  CHECK(world.holds.drops());
  CHECK(left() > 0);
  CHECK(left() < static_cast<long>(objects));
  CHECK_FALSE(world.holds.find(alice.client, all.back()->id));
  int pieces = 1;
  for (; world.holds.drops(); ++pieces) world.holds.drop_more();
  CHECK(pieces == 3);
  CHECK(left() == 0);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a client that lets most of very many holds go is charged for few") {
  constexpr std::size_t objects = 5000;
  HoldsWorld world;
  std::vector<ObjectId> all;
  for (std::size_t i = 0; i < objects; ++i) all.push_back(world.held_by(alice).id);
  const auto charged = [&] { return world.ledger.total().used[Resource::heap]; };
  const auto most = charged();
  for (std::size_t i = 100; i < objects; ++i) REQUIRE(world.holds.release(all[i], alice.client));
  CHECK(charged() < most);
  CHECK(world.holds.held_by(alice.client) == 100);
}

TEST_CASE("what an heir has stays until the heir is dropped") {
  HoldsWorld world;
  StoreEntry& entry = world.held_by(alice);
  world.holds.inherit(alice.client, heir);
  StoreEntry& later = world.held_by(alice);
  world.holds.drop_client(alice.client);
  CHECK(lives(entry));
  CHECK_FALSE(lives(later));
  CHECK(world.holds.find(heir, entry.id));
  world.holds.drop_client(heir);
  CHECK_FALSE(lives(entry));
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a client that holds nothing leaves nothing to an heir") {
  HoldsWorld world;
  world.holds.inherit(alice.client, heir);
  StoreEntry& entry = world.held_by(alice);
  world.holds.inherit(alice.client, heir);
  REQUIRE(world.holds.release(entry.id, alice.client));
  CHECK(lives(entry));
  world.holds.drop_client(heir);
  CHECK_FALSE(lives(entry));
}

TEST_CASE("a reserved hold can be added when there is no heap any more") {
  auto quota = memory_quota(mebibyte);
  quota.per_client[Resource::heap] = 8 << 10;
  Entries entries;
  Ledger ledger(quota);
  Pickles pickles(std::chrono::minutes(10));
  Holds holds(ledger, pickles);
  std::size_t reserved = 0;
  while (holds.reserve(bob, 1)) ++reserved;
  REQUIRE(reserved >= 32);
  const auto object = entries.make();
  CHECK(code_of(holds.add(object, bob)) == Code::quota_exceeded);
  holds.add_reserved(object, bob.client);
  CHECK(holds.held_by(bob.client) == 1);
  CHECK(code_of(holds.add(entries.make(), bob)) == Code::quota_exceeded);
  holds.end_reservation(bob.client, reserved - 1);
  std::size_t more = 0;
  while (holds.add(entries.make(), bob)) ++more;
  CHECK(1 + more == reserved);
  holds.drop_client(bob.client);
  holds.end_reservation(bob.client, 1);  // after the client's end there is nothing to give back
  CHECK(holds_nothing(ledger));
}

TEST_CASE("an object must stay in its place for other users, for forked children, and while holds are dropped") {
  HoldsWorld world;
  StoreEntry& entry = world.held_by(alice);
  world.hold(entry, bob);
  CHECK_FALSE(world.holds.fix_place(entry));
  SECTION("another user holds it") {
    world.hold(entry, carol);
    CHECK(world.holds.fix_place(entry));
    REQUIRE(world.holds.release(entry.id, carol.client));
    CHECK_FALSE(world.holds.fix_place(entry));
  }
  SECTION("a forked child may use it") {
    world.holds.inherit(bob.client, heir);
    CHECK(world.holds.fix_place(entry));
    REQUIRE(world.holds.release(entry.id, bob.client));
    CHECK(world.holds.fix_place(entry));
    world.holds.drop_client(heir);
    CHECK_FALSE(world.holds.fix_place(entry));
  }
  SECTION("its holder is being dropped") {
    for (int i = 0; i < 2000; ++i) world.held_by(carol);
    world.holds.drop_client(carol.client);
    world.holds.drop_client(bob.client);
    CHECK(world.holds.fix_place(entry));
    while (world.holds.drops()) world.holds.drop_more();
    CHECK_FALSE(world.holds.fix_place(entry));
  }
}
