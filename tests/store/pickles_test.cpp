#include <catch2/catch.hpp>

#include "store/entries.hpp"
#include "store/pickles.hpp"

using namespace musterd;
using namespace musterd::testing;
using std::chrono::minutes;

namespace {

constexpr TimePoint start{std::chrono::hours(1)};
constexpr minutes lease{10};

struct PickleWorld {
  /// An object that only a pickle keeps.
  StoreEntry& pickled(TimePoint at = start, std::uint64_t bytes = 100, ObjectPtr parent = nullptr) {
    const auto object = entries.make(bytes, std::move(parent));
    StoreEntry& entry = *object->entry;
    entry.strong = object;
    pickles.pin(entry, at);
    pickles.count(entry);
    return entry;
  }
  /// The same after the pickle has been loaded.
  StoreEntry& loaded(TimePoint at = start, std::uint64_t bytes = 100) {
    StoreEntry& entry = pickled(at, bytes);
    Pickles::note_loaded(entry);
    pickles.count(entry);
    return entry;
  }
  /// A client holds the object from now on.
  void hold(StoreEntry& entry) {
    entry.holders.holds.push_back(holds.emplace_back(ClientId{2}, entry, 0));
    pickles.count(entry);
  }
  void release(StoreEntry& entry) {
    entry.holders.holds.clear();
    pickles.count(entry);
  }

  Entries entries;
  std::list<Hold> holds;
  Pickles pickles{lease};
};

}  // namespace

TEST_CASE("a pickle keeps its object until the lease is over") {
  PickleWorld world;
  StoreEntry& entry = world.pickled();
  CHECK(world.pickles.next_deadline() == start + lease);
  world.pickles.expire(start + lease - Duration{1});
  CHECK(lives(entry));
  world.pickles.expire(start + lease);
  CHECK_FALSE(lives(entry));
  CHECK(std::string(entry.end_reason).starts_with("expired"));
  CHECK_FALSE(world.pickles.next_deadline());
}

TEST_CASE("another pickle of an object begins its lease anew") {
  PickleWorld world;
  StoreEntry& entry = world.pickled();
  world.pickles.pin(entry, start + minutes(4));
  CHECK(world.pickles.next_deadline() == start + minutes(4) + lease);
  world.pickles.expire(start + lease);
  CHECK(lives(entry));
  world.pickles.expire(start + minutes(4) + lease);
  CHECK_FALSE(lives(entry));
}

TEST_CASE("leases of objects that are pickled at the same moment end together") {
  PickleWorld world;
  StoreEntry& one = world.pickled();
  StoreEntry& other = world.pickled();
  world.pickles.expire(start + lease);
  CHECK_FALSE(lives(one));
  CHECK_FALSE(lives(other));
}

TEST_CASE("an object that a client holds outlives its lease") {
  PickleWorld world;
  StoreEntry& entry = world.pickled();
  world.hold(entry);
  world.pickles.expire(start + lease);
  CHECK(lives(entry));
  CHECK_FALSE(entry.holders.pickles.runs());
  entry.holders.holds.clear();
}

TEST_CASE("pickles of a lease that is over are not waited for in the next one") {
  PickleWorld world;
  StoreEntry& entry = world.pickled();
  world.hold(entry);
  world.pickles.expire(start + lease);
  world.pickles.pin(entry, start + lease);
  Pickles::note_loaded(entry);
  world.release(entry);
  CHECK(world.pickles.has_loaded());
}

TEST_CASE("the bytes of objects count while only pickles keep them, and those of parts never do") {
  PickleWorld world;
  StoreEntry& entry = world.pickled(start, 100);
  CHECK(world.pickles.bytes() == 100);
  const auto whole = world.entries.make(1000);
  world.pickled(start, 50, whole);
  CHECK(world.pickles.bytes() == 100);
  world.hold(entry);
  CHECK(world.pickles.bytes() == 0);
  world.release(entry);
  CHECK(world.pickles.bytes() == 100);
  world.pickles.expire(start + lease);
  CHECK(world.pickles.bytes() == 0);
}

TEST_CASE("objects whose pickles were all loaded go when others need the room, the longest unheld first") {
  PickleWorld world;
  StoreEntry& waiting = world.pickled();
  CHECK_FALSE(world.pickles.has_loaded());
  CHECK_FALSE(world.pickles.drop_loaded(1));
  StoreEntry& first = world.loaded(start);
  StoreEntry& second = world.loaded(start - minutes(1));
  StoreEntry& held = world.loaded(start);
  world.hold(held);
  REQUIRE(world.pickles.has_loaded());
  CHECK(world.pickles.drop_loaded(1));
  CHECK_FALSE(lives(first));
  CHECK(lives(second));
  CHECK(world.pickles.drop_loaded(1'000'000));
  CHECK_FALSE(lives(second));
  CHECK_FALSE(world.pickles.has_loaded());
  CHECK(lives(waiting));
  CHECK(lives(held));
  // Each pickle has to be loaded.
  world.pickles.pin(held, start);
  world.release(held);
  CHECK_FALSE(world.pickles.has_loaded());
}

TEST_CASE("very many leases end in pieces, and so do many loaded objects") {
  constexpr int objects = 600;
  PickleWorld world;
  for (int i = 0; i < objects; ++i) world.loaded(start, 1);
  const auto left = [&] { return world.pickles.bytes(); };
  SECTION("they expire") {
    world.pickles.expire(start + lease);
    CHECK(left() > 0);
    CHECK(left() < objects);
    CHECK(world.pickles.next_deadline() == start + lease);
    for (int i = 0; i < 2; ++i) world.pickles.expire(start + lease);
  }
  SECTION("others need the room") {
    CHECK(world.pickles.drop_loaded(objects));
    CHECK(left() > 0);
    CHECK(left() < objects);
    for (int i = 0; i < 2; ++i) CHECK(world.pickles.drop_loaded(objects));
  }
  CHECK(left() == 0);
  CHECK_FALSE(world.pickles.next_deadline());
}
