#include <catch2/catch.hpp>

#include <malloc.h>

#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;
using Catch::Matchers::Contains;
using muster::Code;

namespace {

constexpr Payer alice{1000, {1}};
constexpr Payer bob{1000, {2}};
constexpr Payer carol{2000, {3}};
constexpr auto objects = static_cast<std::size_t>(Resource::objects);
constexpr auto heap = static_cast<std::size_t>(Resource::heap);

using Ids = std::vector<ObjectId>;

}  // namespace

TEST_CASE("the maker of a sealed array holds it, and a client with the capability finds it") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto id = world.seal(alice, array(segment, 64, 100));
  REQUIRE(world.store.held(id, alice));
  const auto object = *world.store.held(id, alice);
  CHECK(object->maker == alice.client);
  CHECK(host_address(object->place(0)) == world.segments.find(segment)->data() + 64);
  CHECK(code_of(world.store.held(id, bob)) == Code::denied);
  REQUIRE(world.store.lookup(id, secret, bob));
  CHECK(world.store.held(id, bob));
  CHECK(world.store.size() == 1);
  CHECK(world.store.holds().held_by(bob.client) == 1);
}

TEST_CASE("a wrong capability or another user does not get an object") {
  StoreWorld world;
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 1));
  CHECK(code_of(world.store.lookup(id, {{11, 23}}, bob)) == Code::denied);
  CHECK(code_of(world.store.lookup(id, {}, bob)) == Code::denied);
  CHECK(code_of(world.store.lookup(id, secret, carol)) == Code::object_lost);
  CHECK(world.store.holds().held_by(bob.client) == 0);
  CHECK(world.store.holds().held_by(carol.client) == 0);
}

TEST_CASE("another user is told the same about objects that live, are gone or never existed") {
  StoreWorld world;
  const auto lives = world.seal(alice, array(world.segment_of(alice), 0, 1));
  const auto gone = world.seal(alice, array(world.segment_of(alice), 64, 1));
  REQUIRE(world.store.holds().release(gone, alice.client));
  while (world.store.take_gone()) continue;
  const auto never = ipc::make_object_id(alice.client, 4711);
  const auto told = [&](ObjectId id, auto ask) {
    const auto error = ask(id).error();
    CHECK(error.code() == Code::object_lost);
    return error.message().substr(error.message().find(" is gone"));
  };
  const auto look_up = [&](ObjectId id) { return world.store.lookup(id, secret, carol); };
  const auto use = [&](ObjectId id) { return world.store.held(id, carol); };
  for (const auto id : {lives, gone, never}) {
    CHECK(told(id, look_up) == told(never, look_up));
    CHECK(told(id, use) == told(never, look_up));
  }
  CHECK_THAT(world.store.lookup(gone, secret, bob).error().message(), Contains("every hold of it was given up"));
}

TEST_CASE("a seal that can't work is refused and leaves nothing behind") {
  StoreWorld world;
  const auto own = world.segment_of(alice);
  const auto foreign = world.segment_of(bob);
  const auto leased = world.segments.lease(alice, {page}).value()->id();
  const auto hard = lease_and_map(world.segments, alice, page, true).segment->id();
  const auto result = world.result(1000, 4);
  const auto used = world.ledger.total().used;

  CHECK(code_of(world.try_seal(alice, array(foreign, 0, 1))) == Code::denied);
  CHECK(code_of(world.try_seal(alice, array({4711}, 0, 1))) == Code::denied);
  CHECK(code_of(world.try_seal(alice, array(leased, 0, 1))) == Code::invalid);
  CHECK(code_of(world.try_seal(alice, array(hard, 0, 1))) == Code::invalid);
  CHECK(code_of(world.try_seal(alice, array(result->manifest.leaves[0].segment, 0, 1))) == Code::denied);
  CHECK(code_of(world.try_seal(alice, array(own, 16 * page, 1))) == Code::invalid);
  CHECK(code_of(world.try_seal(alice, array(own, 0, 16 * page))) == Code::invalid);
  auto overflowing = array(own, 0, 32);
  overflowing.leaves[0].offset = ~std::uint64_t{0} - 63;
  CHECK(code_of(world.try_seal(alice, overflowing)) == Code::invalid);
  CHECK(code_of(world.store.seal(alice, ipc::make_object_id(bob.client, 1), secret, {}, 0, array(own, 0, 1), start)) ==
        Code::denied);
  CHECK(code_of(world.store.seal(alice, ipc::make_object_id({}, 1), secret, {}, 0, array(own, 0, 1), start)) ==
        Code::denied);
  CHECK(world.ledger.total().used == used);
  CHECK(world.store.size() == 1);
  CHECK(world.store.totals().bytes_deposited == 0);
}

TEST_CASE("an id never names a second object") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto id = world.seal(alice, array(segment, 0, 1));
  const auto again = [&] { return world.store.seal(alice, id, secret, {}, 0, array(segment, 64, 1), start); };
  CHECK(code_of(again()) == Code::invalid);
  REQUIRE(world.store.holds().release(id, alice.client));
  CHECK(code_of(again()) == Code::invalid);
  world.gone();
  CHECK(code_of(again()) == Code::invalid);
}

TEST_CASE("arrays without bytes and bundles without arrays need no segment") {
  StoreWorld world;
  Manifest manifest;
  REQUIRE(manifest.add({}, 0, muster::DType::int8, std::vector<std::int64_t>{3, 0}));
  const auto empty = world.seal(alice, manifest);
  CHECK((*world.store.held(empty, alice))->memories[0] == nullptr);
  const auto none = world.seal(alice, Manifest{});
  CHECK(world.store.held(none, alice));
}

TEST_CASE("the last of several holds frees the object, and its end is told once") {
  StoreWorld world;
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 1));
  REQUIRE(world.store.lookup(id, secret, alice));
  REQUIRE(world.store.lookup(id, secret, bob));
  REQUIRE(world.store.holds().release(id, alice.client));
  REQUIRE(world.store.holds().release(id, alice.client));
  CHECK(world.gone().empty());
  CHECK(code_of(world.store.holds().release(id, alice.client)) == Code::invalid);
  REQUIRE(world.store.holds().release(id, bob.client));
  const auto gone = world.store.take_gone();
  REQUIRE(gone);
  CHECK(gone->id == id);
  CHECK(gone->maker == alice.client);
  CHECK(world.gone().empty());
  CHECK(world.store.size() == 0);
  CHECK(world.ledger.total().used[objects] == 0);
}

TEST_CASE("a pickle that was loaded keeps its object only while nobody needs the memory") {
  StoreWorld world(Store::Limits{.pickle_lease = std::chrono::minutes(1)});
  const auto segment = world.segment_of(alice);
  Ids ids;
  for (std::uint64_t i = 0; i < 4; ++i) ids.push_back(world.seal(alice, array(segment, 64 * i, 8)));
  for (const auto id : ids) REQUIRE(world.store.pin(id, alice, world.now));
  const auto bytes = world.store.held(ids[0], alice).value()->manifest.bytes();
  CHECK(world.store.pickles().bytes() == 0);
  for (const auto id : ids) REQUIRE(world.store.holds().release(id, alice.client));
  CHECK(world.store.pickles().bytes() == 4 * bytes);
  // Nobody has loaded one yet.
  CHECK_FALSE(world.store.pickles().drop_loaded(bytes));

  for (const auto id : {ids[2], ids[0], ids[1]}) REQUIRE(world.store.lookup(id, secret, bob));
  CHECK(world.store.pickles().bytes() == bytes);
  CHECK_FALSE(world.store.pickles().has_loaded());
  for (const auto id : {ids[1], ids[2]}) REQUIRE(world.store.holds().release(id, bob.client));
  CHECK(world.store.pickles().has_loaded());
  // The object that nobody has held for the longest time goes first.
  CHECK(world.store.pickles().drop_loaded(1));
  world.gone();
  CHECK_THAT(error_of(world.store.lookup(ids[1], secret, bob)).message(), Contains("others needed the room"));
  // A pickle can be loaded again while there is room, and keeps its object meanwhile.
  REQUIRE(world.store.lookup(ids[2], secret, bob));
  CHECK_FALSE(world.store.pickles().drop_loaded(1000 * bytes));
  REQUIRE(world.store.holds().release(ids[2], bob.client));
  CHECK(world.store.pickles().drop_loaded(1000 * bytes));
  CHECK(world.store.pickles().bytes() == bytes);
  // An object that is held goes with its holder, as its pickles don't count any more. The last object goes with its
  // lease.
  world.store.pickles().expire(world.now + std::chrono::minutes(1));
  CHECK(world.store.pickles().bytes() == 0);
  CHECK(world.store.held(ids[0], bob));
  CHECK(code_of(world.store.lookup(ids[3], secret, bob)) == Code::object_lost);
  CHECK(world.store.size() == 1);
}

TEST_CASE("pickles of an object that nobody has loaded keep it, even if others were loaded") {
  StoreWorld world;
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 8));
  for (int i = 0; i < 2; ++i) REQUIRE(world.store.pin(id, alice, world.now));
  REQUIRE(world.store.holds().release(id, alice.client));
  REQUIRE(world.store.lookup(id, secret, bob));
  REQUIRE(world.store.holds().release(id, bob.client));
  CHECK_FALSE(world.store.pickles().drop_loaded(1));
  // A new lookup, as in a forked child, does not load a pickle.
  REQUIRE(world.store.lookup(id, secret, bob, Store::Found::again));
  REQUIRE(world.store.holds().release(id, bob.client));
  CHECK_FALSE(world.store.pickles().drop_loaded(1));
  REQUIRE(world.store.lookup(id, secret, bob));
  REQUIRE(world.store.holds().release(id, bob.client));
  CHECK(world.store.pickles().drop_loaded(1));
}

TEST_CASE("thousands of leases that run out at once end in pieces") {
  StoreWorld world(Store::Limits{.pickle_lease = std::chrono::minutes(1)});
  const auto segment = world.segment_of(alice);
  constexpr std::uint64_t many = 1000;
  const bool loaded = GENERATE(false, true);
  for (std::uint64_t i = 0; i < many; ++i) {
    const auto id = world.seal(alice, array(segment, 64 * i, 1));
    REQUIRE(world.store.pin(id, alice, world.now));
    REQUIRE(world.store.holds().release(id, alice.client));
    if (!loaded) continue;
    REQUIRE(world.store.lookup(id, secret, bob));
    REQUIRE(world.store.holds().release(id, bob.client));
  }
  const TimePoint end = start + std::chrono::minutes(1);
  std::size_t most = 0;
  int turns = 0;
  for (; world.store.size() > 0; ++turns) {
    const auto before = world.store.size();
    if (loaded) REQUIRE(world.store.pickles().drop_loaded(1 << 30));
    else world.store.pickles().expire(end);
    most = std::max<std::size_t>(most, before - world.store.size());
  }
  CHECK(most <= 256);
  CHECK(turns >= 4);
  CHECK_FALSE(world.store.pickles().next_deadline());
  CHECK(world.store.pickles().bytes() == 0);
}

TEST_CASE("a lost object has a reason") {
  StoreWorld world(Store::Limits{.pickle_lease = std::chrono::minutes(1)});
  const auto segment = world.segment_of(alice);
  const auto freed = world.seal(alice, array(segment, 0, 1));
  const auto expired = world.seal(alice, array(segment, 64, 1));
  const auto orphan = world.seal(alice, array(segment, 128, 1));
  REQUIRE(world.store.holds().release(freed, alice.client));
  REQUIRE(world.store.pin(expired, alice, world.now));
  REQUIRE(world.store.holds().release(expired, alice.client));
  CHECK(world.store.pickles().next_deadline() == start + std::chrono::minutes(1));
  world.store.pickles().expire(start + std::chrono::minutes(1));
  world.store.holds().drop_client(alice.client);
  world.gone();

  const auto message = [&](ObjectId id) {
    const auto error = error_of(world.store.lookup(id, secret, bob));
    CHECK(error.code() == Code::object_lost);
    CHECK_FALSE(error.hint().empty());
    CHECK_THAT(error.message(), Contains("object " + ipc::text_of(id) + " "));
    return error.message();
  };
  CHECK_THAT(message(freed), Contains("freed"));
  CHECK_THAT(message(expired), Contains("expired"));
  CHECK_THAT(message(orphan), Contains("owner died"));
  CHECK_THAT(message(ipc::make_object_id({9}, 9)), Contains("never existed"));
}

TEST_CASE("an object is lost even before anybody has asked which objects are gone") {
  StoreWorld world;
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 1));
  REQUIRE(world.store.holds().release(id, alice.client));
  CHECK(world.store.size() == 0);
  CHECK(code_of(world.store.lookup(id, secret, bob)) == Code::object_lost);
  CHECK(code_of(world.store.held(id, alice)) == Code::object_lost);
}

TEST_CASE("an op keeps its inputs, though everybody has let go of them") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto id = world.seal(alice, array(segment, 0, 1));
  ObjectPtr lease = *world.store.held(id, alice);
  world.store.holds().drop_client(alice.client);
  world.segments.drop_client(alice.client);
  CHECK(world.gone().empty());
  CHECK(world.segments.find(segment));
  CHECK(code_of(world.store.held(id, alice)) == Code::denied);
  lease.reset();
  CHECK(world.gone() == Ids{id});
  CHECK_FALSE(world.segments.find(segment));
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("giving an outcome to a client revives an object that only the op kept") {
  StoreWorld world;
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 1));
  ObjectPtr lease = *world.store.held(id, alice);
  REQUIRE(world.store.holds().release(id, alice.client));
  REQUIRE(world.store.holds().add(lease, bob));
  lease.reset();
  CHECK(world.gone().empty());
  CHECK(world.store.held(id, bob));
}

TEST_CASE("a pickled ref keeps its object until the lease ends, renewed by each pickle") {
  StoreWorld world(Store::Limits{.pickle_lease = std::chrono::minutes(10)});
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 1));
  REQUIRE(world.store.pin(id, alice, start));
  REQUIRE(world.store.pin(id, alice, start + std::chrono::minutes(5)));
  CHECK(code_of(world.store.pin(id, bob, start)) == Code::denied);
  world.store.holds().drop_client(alice.client);
  world.store.pickles().expire(start + std::chrono::minutes(10));
  CHECK(world.gone().empty());
  REQUIRE(world.store.lookup(id, secret, bob));  // it was unpickled, which uses nothing up
  world.store.pickles().expire(start + std::chrono::minutes(15));
  CHECK_FALSE(world.store.pickles().next_deadline());
  CHECK(world.gone().empty());
  REQUIRE(world.store.holds().release(id, bob.client));
  CHECK(world.gone() == Ids{id});
}

TEST_CASE("a part keeps its whole, and a part of a part needs nothing in between") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto whole = world.seal(alice, array(segment, 0, 1000));
  const auto part = world.seal(alice, array(segment, 400, 100), whole);
  const auto piece = world.seal(alice, array(segment, 480, 10), part);
  REQUIRE(world.store.holds().release(whole, alice.client));
  REQUIRE(world.store.holds().release(part, alice.client));
  CHECK(world.gone() == Ids{part});
  REQUIRE(world.store.holds().release(piece, alice.client));
  CHECK(world.gone() == Ids{piece, whole});
}

TEST_CASE("a part of a result belongs to the client that made it, and its bytes belong to the result") {
  StoreWorld world;
  auto result = world.result(1000, 64);
  const auto segment = result->manifest.leaves[0].segment;
  const auto offset = result->manifest.leaves[0].offset;
  CHECK(code_of(world.try_seal(bob, array(segment, offset, 8), result->id)) == Code::denied);
  REQUIRE(world.store.holds().add(result, bob));
  const auto part = world.seal(bob, array(segment, offset + 16, 8), result->id);
  CHECK(code_of(world.try_seal(bob, array(segment, offset, 65), result->id)) == Code::invalid);
  const auto id = result->id;
  result.reset();
  REQUIRE(world.store.holds().release(id, bob.client));
  CHECK(world.gone().empty());
  REQUIRE(world.store.holds().release(part, bob.client));
  CHECK(world.gone() == Ids{part, id});
  CHECK(world.results.used_bytes() == 0);
}

TEST_CASE("a long chain of parts of parts ends without deep recursion") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  ObjectId last = world.seal(alice, array(segment, 0, 16));
  for (int i = 0; i < 200'000; ++i) {
    const auto next = world.seal(alice, array(segment, 0, 16), last);
    REQUIRE(world.store.holds().release(last, alice.client));
    last = next;
  }
  REQUIRE(world.store.holds().release(last, alice.client));
  CHECK(world.gone().size() == 200'001);
  CHECK(world.store.size() == 0);
}

TEST_CASE("an heir holds what it inherits as long as it lives") {
  StoreWorld world;
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 1));
  const ClientId heir{0x80000001};
  world.store.holds().inherit(alice.client, heir);
  world.store.holds().drop_client(alice.client);
  CHECK(world.gone().empty());
  CHECK(world.store.held(id, {alice.user, heir}));
  world.store.holds().drop_client(heir);
  CHECK(world.gone() == Ids{id});
}

TEST_CASE("an heir keeps what its parent held at the fork, and nothing from before or after that") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto before = world.seal(alice, array(segment, 0, 1));
  const ClientId older{0x80000001};
  const ClientId younger{0x80000002};
  world.store.holds().inherit(alice.client, older);
  REQUIRE(world.store.holds().release(before, alice.client));
  const auto between = world.seal(alice, array(segment, 64, 1));
  world.store.holds().inherit(alice.client, younger);
  const auto after = world.seal(alice, array(segment, 128, 1));
  REQUIRE(world.store.holds().release(after, alice.client));
  CHECK(world.gone() == Ids{after});
  REQUIRE(world.store.holds().release(between, alice.client));
  CHECK(world.gone().empty());
  world.store.holds().drop_client(older);
  CHECK(world.gone() == Ids{before});
  world.store.holds().drop_client(alice.client);
  CHECK(world.gone().empty());
  world.store.holds().drop_client(younger);
  CHECK(world.gone() == Ids{between});
}

TEST_CASE("any number of heirs costs nothing in addition to their parent's holds") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto of_segment = world.ledger.total().used[heap];
  for (int i = 0; i < 1000; ++i) world.seal(alice, array(segment, 0, 1));
  const auto held = world.ledger.total().used;
  std::vector<ClientId> heirs;
  for (std::uint32_t i = 0; i < 200; ++i)
    world.store.holds().inherit(alice.client, heirs.emplace_back(ClientId{0x80000001 + i}));
  CHECK(world.ledger.total().used == held);
  world.store.holds().drop_client(alice.client);
  while (world.store.holds().drops()) world.store.holds().drop_more();
  CHECK(world.ledger.total().used[heap] == held[heap]);
  for (const auto heir : heirs) {
    CHECK(world.store.size() == 1000);
    world.store.holds().drop_client(heir);
    while (world.store.holds().drops()) world.store.holds().drop_more();
  }
  CHECK(world.gone().size() == 1000);
  CHECK(world.ledger.total().used[heap] == of_segment);
}

TEST_CASE("a request for which the heap has no room is refused to its client") {
  Quota quota = memory_quota(16 * mebibyte);
  quota.per_client[heap] = 32 * kibibyte;
  StoreWorld world({}, quota);
  const auto segment = world.segment_of(alice);
  const auto first = world.seal(alice, array(segment, 0, 1));
  Code code{};
  int made = 0;
  for (; made < 1000; ++made) {
    const auto sealed = world.try_seal(alice, array(segment, 0, 1));
    if (sealed) continue;
    code = sealed.error().code();
    CHECK_THAT(sealed.error().message(), Contains("of the daemon's own memory"));
    break;
  }
  CHECK(code == Code::quota_exceeded);
  CHECK(made > 10);
  CHECK(made < 100);
  REQUIRE(world.store.lookup(first, secret, bob));
  // Other clients hold what they like, up to their own limit.
  auto taken = world.ledger.charge(carol, Resource::heap, 32 * kibibyte);
  REQUIRE(taken);
  CHECK_FALSE(world.store.holds().add(*world.store.held(first, alice), carol));
  CHECK(world.ledger.client(carol.client).used[heap] == 32 * kibibyte);
}

TEST_CASE("an object of more arrays than one turn can handle is refused") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  Manifest manifest;
  const auto add = [&] { REQUIRE(manifest.add(segment, 0, muster::DType::int8, std::vector<std::int64_t>{1})); };
  while (manifest.leaves.size() < ipc::object_leaves_max) add();
  const auto whole = world.seal(alice, manifest);
  add();
  CHECK(code_of(world.try_seal(alice, manifest)) == muster::Code::invalid);
  CHECK(code_of(world.try_seal(alice, manifest, whole)) == muster::Code::invalid);
}

TEST_CASE("an object with too long a description is refused") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  Manifest manifest;
  SECTION("by its shapes") {
    const std::vector<std::int64_t> deep(60, 1);
    constexpr std::size_t each = 16 + 60 * 8;
    while (manifest.leaves.size() < muster::ipc::description_bytes_max / each)
      REQUIRE(manifest.add(segment, 0, muster::DType::int8, deep));
    REQUIRE(world.try_seal(alice, manifest));
    REQUIRE(manifest.add(segment, 0, muster::DType::int8, deep));
  }
  SECTION("by its names and constants") {
    manifest.structure = std::string(muster::ipc::description_bytes_max / 2, 's');
    manifest.guise = std::string(manifest.structure.size() - 64, 'g');
    REQUIRE(world.try_seal(alice, manifest));
    manifest.guise += manifest.guise.substr(0, 64);
  }
  const auto refused = world.try_seal(alice, manifest);
  CHECK(code_of(refused) == Code::invalid);
  CHECK_THAT(refused.error().describe(), Contains("description of 104"));
}

TEST_CASE("a description of many arrays is destroyed by another thread, and charged until then") {
  StoreWorld world;
  world.keeps_remains = true;
  const auto segment = world.segment_of(alice);
  Manifest manifest;
  for (int i = 0; i < 1000; ++i) REQUIRE(manifest.add(segment, 0, muster::DType::int8, std::vector<std::int64_t>{1}));
  const auto many = world.seal(alice, manifest);
  const auto few = world.seal(alice, array(segment, 0, 8));
  const auto charged = [&] { return world.ledger.total().used[static_cast<std::size_t>(Resource::memory)]; };
  const auto before = charged();
  for (const auto id : {many, few}) REQUIRE(world.store.holds().release(id, alice.client));
  CHECK(world.gone() == std::vector{many, few});
  REQUIRE(world.descriptions.size() == 1);
  CHECK(charged() == before);
  world.descriptions.clear();
  world.disposals[0]();
  CHECK(charged() < before - 32 * kibibyte);
}

TEST_CASE("a holder of an object may read all of its segments and no others") {
  StoreWorld world;
  const auto first = world.segment_of(alice);
  const auto second = world.segment_of(alice);
  const auto third = world.segment_of(alice);
  auto manifest = array(second, 0, 1);
  REQUIRE(manifest.add(first, 0, muster::DType::int8, std::vector<std::int64_t>{1}));
  REQUIRE(manifest.add(second, 64, muster::DType::int8, std::vector<std::int64_t>{1}));
  const auto id = world.seal(alice, manifest);
  CHECK_FALSE(world.store.holds().is_lent(carol.client, first));
  REQUIRE(world.store.holds().add(*world.store.held(id, alice), carol));
  CHECK(world.store.holds().is_lent(carol.client, first));
  CHECK(world.store.holds().is_lent(carol.client, second));
  CHECK_FALSE(world.store.holds().is_lent(carol.client, third));
}

TEST_CASE("a segment is lent as long as an object in it is held, however often") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto first = world.seal(alice, array(segment, 0, 1));
  const auto second = world.seal(alice, array(segment, 64, 1));
  const auto take = [&](ObjectId id) { REQUIRE(world.store.holds().add(*world.store.held(id, alice), carol)); };
  take(first);
  take(first);
  take(second);
  for (const auto id : {first, second, first}) {
    CHECK(world.store.holds().is_lent(carol.client, segment));
    REQUIRE(world.store.holds().release(id, carol.client));
  }
  CHECK_FALSE(world.store.holds().is_lent(carol.client, segment));
  take(second);
  world.store.holds().drop_client(carol.client);
  CHECK_FALSE(world.store.holds().is_lent(carol.client, segment));
}

TEST_CASE("to know whether a segment is lent takes no walk over a client's holds") {
  StoreWorld world;
  const auto mine = world.segment_of(carol);
  const auto lent = world.segment_of(alice);
  constexpr int holds = 30'000;
  for (int i = 0; i < holds; ++i) world.seal(carol, array(mine, 0, 1));
  REQUIRE(world.store.holds().add(*world.store.held(world.seal(alice, array(lent, 0, 1)), alice), carol));
  constexpr int times = 30'000;  // with a walk for each it would be a thousand million steps
  bool always = true;
  for (int i = 0; i < times; ++i) always &= world.store.holds().is_lent(carol.client, lent);
  CHECK(always);
}

TEST_CASE("objects are charged to their makers until they end, results to their users") {
  Quota quota = memory_quota(16 * mebibyte);
  quota.per_client[objects] = 2;
  StoreWorld world({}, quota);
  const auto segment = world.segment_of(alice);
  const auto first = world.seal(alice, array(segment, 0, 1));
  world.seal(alice, array(segment, 64, 1));
  CHECK(code_of(world.try_seal(alice, array(segment, 128, 1))) == Code::quota_exceeded);
  REQUIRE(world.store.lookup(first, secret, bob));
  REQUIRE(world.store.holds().release(first, alice.client));
  CHECK(world.ledger.client(alice.client).used[objects] == 2);  // bob keeps it alive
  REQUIRE(world.store.holds().release(first, bob.client));
  CHECK(world.try_seal(alice, array(segment, 128, 1)));
  const auto result = world.result(1000, 4);
  CHECK(world.ledger.user(1000).used[objects] == 3);
}

TEST_CASE("a manifest too large for its slot is charged as memory") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto before = world.ledger.client(alice.client).used[0];
  auto manifest = array(segment, 0, 1);
  world.seal(alice, manifest);
  CHECK(world.ledger.client(alice.client).used[0] == before);
  manifest.structure.resize(mebibyte / 2);
  const auto id = world.seal(alice, manifest);
  CHECK(world.ledger.client(alice.client).used[0] >= before + mebibyte / 2);
  REQUIRE(world.store.holds().release(id, alice.client));
  CHECK(world.ledger.client(alice.client).used[0] == before);
}

TEST_CASE("deposited and copied bytes are counted, parts, and wrong claims about copies, are not") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto seal = [&](std::uint32_t counter, ObjectId parent, std::uint64_t copied, std::int64_t count) {
    const auto id = ipc::make_object_id(alice.client, counter);
    REQUIRE(world.store.seal(alice, id, secret, parent, copied, array(segment, 0, count), start));
    return id;
  };
  const auto whole = seal(1, {}, 0, 100);
  seal(2, {}, 40, 10);
  seal(3, {}, ~std::uint64_t{0}, 5);
  seal(4, whole, 0, 50);
  CHECK(world.store.totals().bytes_deposited == 460);
  CHECK(world.store.totals().bytes_copied == 60);
}

TEST_CASE("the number of remembered ends is bounded, and the oldest are forgotten") {
  StoreWorld world(Store::Limits{.tombstones = 10});
  const auto segment = world.segment_of(alice);
  Ids ids;
  for (int i = 0; i < 30; ++i) {
    ids.push_back(world.seal(alice, array(segment, 0, 1)));
    REQUIRE(world.store.holds().release(ids.back(), alice.client));
    world.gone();
  }
  CHECK_THAT(error_of(world.store.lookup(ids[19], secret, bob)).message(), Contains("long ago"));
  CHECK_THAT(error_of(world.store.lookup(ids[20], secret, bob)).message(), Contains("every hold"));
}

TEST_CASE("the list shows holders, ops and leases, oldest first") {
  StoreWorld world(Store::Limits{.pickle_lease = std::chrono::minutes(2)});
  const auto segment = world.segment_of(alice);
  const auto older = world.seal(alice, array(segment, 0, 1));
  world.now += std::chrono::seconds(1);
  const auto newer = world.seal(alice, array(segment, 64, 1));
  REQUIRE(world.store.lookup(older, secret, bob));
  REQUIRE(world.store.lookup(older, secret, bob));
  REQUIRE(world.store.pin(newer, alice, world.now));
  const ObjectPtr op = *world.store.held(newer, alice);
  REQUIRE(world.store.holds().release(newer, alice.client));
  std::vector<Store::Listed> list;
  world.store.list(std::nullopt, [&](const Store::Listed& listed) {
    list.push_back(listed);
    return true;
  });
  REQUIRE(list.size() == 2);
  CHECK(list[0].object->id == older);
  const auto at = world.now + std::chrono::minutes(1);
  const auto of_older = list[0].holders.first(10, at);
  REQUIRE(of_older.size() == 2);
  CHECK(std::get<Holder::Client>(of_older.back().by).id == bob.client);
  CHECK(of_older.back().count == 2);
  CHECK(list[0].in_ops == 0);
  const auto of_newer = list[1].holders.first(10, at);
  REQUIRE(of_newer.size() == 1);
  CHECK(std::holds_alternative<Holder::PickleLease>(of_newer.front().by));
  CHECK(of_newer.front().left == std::chrono::minutes(1));
  CHECK(list[1].in_ops == 1);
  int rows = 0;
  world.store.list(alice.user, [&](const Store::Listed&) { return ++rows, false; });
  CHECK(rows == 1);
  world.store.list(alice.user + 1000, [&](const Store::Listed&) { return ++rows, true; });
  CHECK(rows == 1);
}

TEST_CASE("ten thousand objects cost the daemon little memory") {
  StoreWorld world;
  const auto segment = world.segment_of(alice);
  const auto before = ::mallinfo2().uordblks;
  for (int i = 0; i < 10'000; ++i) REQUIRE(world.store.lookup(world.seal(alice, array(segment, 0, 1)), secret, bob));
  const auto used = ::mallinfo2().uordblks - before;
  // A sanitizer's own allocator reports nothing here.
  CHECK(used < 10 * mebibyte);
  CHECK(world.store.size() == 10'000);
}
