#include <catch2/catch.hpp>

#include "memory/quotas.hpp"
#include "store/entries.hpp"
#include "store/family.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;

namespace {

constexpr UserId user = 1000;
constexpr ClientId parent{2};
constexpr ClientId child{0xf000'0001};
constexpr ClientId younger{0xf000'0002};

struct FamilyWorld {
  void add(const ObjectPtr& object) {
    REQUIRE(family.make_room(1));
    family.add(object);
  }
  void fork(ClientId heir) { family.add_heir(family.next_heir(heir)); }
  [[nodiscard]] std::uint64_t charged() const { return ledger.total().used[Resource::heap]; }
  /// Ends all holds of a client or heir.
  void leave(ClientId client) {
    auto node = family.leave(client);
    auto& dropping = node.front();
    for (; dropping.next != dropping.holds.end(); ++dropping.next) family.end(dropping.next->second, dropping.before);
  }

  Ledger ledger{memory_quota(mebibyte)};
  Entries entries;
  Family family{ledger, {user, parent}};
};

std::size_t holds_on(const ObjectPtr& object) { return object->entry->holders.holds.size(); }

}  // namespace

TEST_CASE("a family tells when the last hold of its client ends") {
  FamilyWorld world;
  const auto object = world.entries.make();
  CHECK_FALSE(world.family.release(object->id));
  world.add(object);
  world.add(object);
  CHECK(world.family.held() == 1);
  CHECK(world.family.find(parent, object->id)->count == 2);
  CHECK(object->entry->strong == object);
  CHECK(world.family.release(object->id) == nullptr);
  CHECK(holds_on(object) == 1);
  CHECK(world.family.release(object->id) == object->entry);
  CHECK(holds_on(object) == 0);
  CHECK(world.family.held() == 0);
  CHECK_FALSE(world.family.release(object->id));
}

TEST_CASE("a family is charged for many holds at once, and reservations count") {
  FamilyWorld world;
  world.add(world.entries.make());
  const auto first = world.charged();
  CHECK(first > 0);
  for (int i = 1; i < 32; ++i) world.add(world.entries.make());
  CHECK(world.charged() == first);
  REQUIRE(world.family.make_room(1));
  CHECK(world.charged() == 2 * first);
  world.family.reserve(32);
  REQUIRE(world.family.make_room(1));
  CHECK(world.charged() == 3 * first);
  world.family.end_reservation(32);
  CHECK(world.family.reserved() == 0);
  REQUIRE(world.family.make_room(64));
  CHECK(world.charged() == 3 * first);
}

TEST_CASE("a hold for which there is no heap is refused, and changes nothing") {
  FamilyWorld world;
  auto quota = memory_quota(mebibyte);
  quota.per_client[Resource::heap] = 8 << 10;
  Ledger ledger(quota);
  Family family(ledger, {user, parent});
  REQUIRE(family.make_room(32));
  const auto used = ledger.total().used;
  CHECK(code_of(family.make_room(100)) == muster::Code::quota_exceeded);
  CHECK(ledger.total().used == used);
  CHECK(family.make_room(32));
}

TEST_CASE("a table that has become far too large is charged less") {
  FamilyWorld world;
  std::vector<ObjectPtr> objects;
  for (int i = 0; i < 5000; ++i) world.add(objects.emplace_back(world.entries.make()));
  const auto most = world.charged();
  for (std::size_t i = 10; i < objects.size(); ++i) {
    CHECK(world.family.release(objects[i]->id) != nullptr);
    world.family.shrink();
  }
  CHECK(world.charged() < most);
  CHECK(world.charged() > 0);
  for (std::size_t i = 0; i < 10; ++i) CHECK(world.family.find(parent, objects[i]->id));
  world.leave(parent);
}

TEST_CASE("an heir gets what the client held at the fork and lets go") {
  FamilyWorld world;
  const auto before = world.entries.make();
  const auto after = world.entries.make();
  world.add(before);
  world.add(before);
  world.fork(child);
  world.add(after);
  CHECK(world.family.is_inherited(before->id));
  CHECK_FALSE(world.family.is_inherited(after->id));
  CHECK(world.family.release(after->id) == after->entry);
  CHECK(world.family.release(before->id) == nullptr);
  CHECK_FALSE(world.family.find(child, before->id));
  CHECK(world.family.release(before->id) == nullptr);
  const Hold* passed = world.family.find(child, before->id);
  REQUIRE(passed);
  CHECK(std::get<Holder::LifeLine>(passed->by).id == child);
  CHECK(passed->count == 1);
  CHECK(holds_on(before) == 1);
  world.leave(child);
  CHECK(holds_on(before) == 0);
}

TEST_CASE("an heir has one hold, however many the client had") {
  FamilyWorld world;
  const auto object = world.entries.make();
  world.add(object);
  world.add(object);
  world.fork(child);
  world.leave(parent);
  REQUIRE(world.family.find(child, object->id));
  CHECK(world.family.find(child, object->id)->count == 1);
  world.leave(child);
}

TEST_CASE("a hold never goes to an heir that was forked after the client let it go") {
  FamilyWorld world;
  const auto object = world.entries.make();
  world.add(object);
  world.fork(child);
  CHECK(world.family.release(object->id) == nullptr);
  world.fork(younger);
  world.leave(child);
  CHECK_FALSE(world.family.find(younger, object->id));
  CHECK(holds_on(object) == 0);
}

TEST_CASE("a hold goes to the youngest heir first, and then to those before it") {
  FamilyWorld world;
  const auto object = world.entries.make();
  world.add(object);
  world.fork(child);
  world.fork(younger);
  const auto has = [&](ClientId heir) { return world.family.find(heir, object->id) != nullptr; };
  SECTION("each lets go in its turn") {
    world.leave(parent);
    CHECK(has(younger));
    CHECK_FALSE(has(child));
    world.leave(younger);
    CHECK(has(child));
    world.leave(child);
  }
  SECTION("the younger child ends first") {
    world.leave(younger);
    world.leave(parent);
    CHECK(has(child));
    world.leave(child);
  }
  SECTION("the client gets the object again after its forks") {
    CHECK(world.family.release(object->id) == nullptr);
    world.add(object);
    CHECK(holds_on(object) == 2);
    CHECK(world.family.release(object->id) == object->entry);
    CHECK(holds_on(object) == 1);
    world.leave(younger);
    CHECK(has(child));
    world.leave(child);
  }
  SECTION("the client gets the object again, and forks again") {
    CHECK(world.family.release(object->id) == nullptr);
    world.add(object);
    world.fork({0xf000'0003});
    CHECK(world.family.release(object->id) == nullptr);
    CHECK(holds_on(object) == 2);
    world.leave({0xf000'0003});
    CHECK(holds_on(object) == 1);
    CHECK(has(younger));
    world.leave(younger);
    world.leave(child);
  }
  CHECK(holds_on(object) == 0);
}

TEST_CASE("a segment of another user is lent while the client holds an object in it") {
  StoreWorld segments;
  FamilyWorld world;
  Entries others(user + 1, {9});
  const auto segment = segments.segments.find(segments.segment_of({user + 1, {9}}));
  const auto one = others.make_in(segment);
  const auto other = others.make_in(segment);
  const auto is_lent = [&] { return world.family.is_lent(segment->id()); };
  CHECK_FALSE(is_lent());
  world.add(one);
  world.add(other);
  world.add(other);
  CHECK(is_lent());
  CHECK(world.family.release(one->id) == one->entry);
  CHECK(is_lent());
  CHECK(world.family.release(other->id) == nullptr);
  CHECK(is_lent());
  SECTION("it lets the last one go") { CHECK(world.family.release(other->id) == other->entry); }
  SECTION("an heir gets the last one") {
    world.fork(child);
    CHECK(world.family.release(other->id) == nullptr);
    CHECK(holds_on(other) == 1);
    world.leave(child);
  }
  SECTION("the client ends") { world.leave(parent); }
  CHECK_FALSE(is_lent());
}

TEST_CASE("a segment of the client's own user is not lent") {
  StoreWorld segments;
  FamilyWorld world;
  const auto segment = segments.segments.find(segments.segment_of({user, {9}}));
  const auto object = world.entries.make_in(segment);
  world.add(object);
  CHECK_FALSE(world.family.is_lent(segment->id()));
  world.leave(parent);
}
