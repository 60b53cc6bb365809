// Which objects are in a segment, when it is sparse, and how an object leaves it.
#include <catch2/catch.hpp>

#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

constexpr UserId user = 1000;
constexpr Payer maker{user, {1}};
constexpr Payer reader{user, {2}};
constexpr std::int64_t floats_each = 256;
constexpr std::uint64_t bytes_each = floats_each * sizeof(float);

/// A maker with many arrays in a segment of a mebibyte. The reader holds the first of them, too.
struct Crowd : StoreWorld {
  explicit Crowd(Store::Limits limits = {}) : StoreWorld(limits) {
    for (std::uint64_t i = 0; i < 100; ++i) objects.push_back(seal(maker, array(segment, i * bytes_each, floats_each)));
    first = store.lookup(objects[0], secret, reader).value().get();
  }
  void maker_dies() {
    store.holds().drop_client(maker.client);
    segments.drop_client(maker.client);
    gone();
  }
  [[nodiscard]] SegmentPtr place() const { return segments.find(segment); }
  /// Moves the object like the node does.
  bool move(ObjectId id) {
    auto move = store.begin_move(id, place());
    if (!move) return false;
    move->to = results.allocate(user, move->bytes).value();
    for (const auto& piece : move->pieces)
      std::memcpy(host_address(move->to.place() + piece.offset), host_address(piece.place), piece.bytes);
    return store.finish_move(std::move(*move));
  }

  SegmentId segment = segment_of(maker, mebibyte);
  std::vector<ObjectId> objects;
  const Object* first = nullptr;
};

}  // namespace

TEST_CASE("a client's segment counts its objects and their bytes") {
  Crowd crowd;
  CHECK(crowd.place()->live_objects() == 100);
  CHECK(crowd.place()->live_bytes() == 100 * bytes_each);
  REQUIRE(crowd.store.holds().release(crowd.objects[7], maker.client));
  CHECK(crowd.place()->live_objects() == 99);
  // A part is where its whole is.
  const auto part = crowd.seal(maker, array(crowd.segment, 0, 3), crowd.objects[0]);
  CHECK(crowd.place()->live_objects() == 99);
  REQUIRE(crowd.store.holds().release(part, maker.client));
  CHECK(crowd.place()->live_bytes() == 99 * bytes_each);
}

TEST_CASE("an object of several segments counts in each of them with its bytes there") {
  StoreWorld world;
  const auto one = world.segment_of(maker);
  const auto other = world.segment_of(maker);
  Manifest manifest = array(other, 0, 10);
  REQUIRE(manifest.add(one, 64, muster::DType::float32, std::vector<std::int64_t>{20}));
  REQUIRE(manifest.add({}, 0, muster::DType::float32, std::vector<std::int64_t>{0}));
  REQUIRE(manifest.add(other, 1024, muster::DType::float32, std::vector<std::int64_t>{30}));
  const auto object = world.seal(maker, manifest);
  CHECK(world.segments.find(one)->live_bytes() == 20 * sizeof(float));
  CHECK(world.segments.find(other)->live_bytes() == 40 * sizeof(float));
  REQUIRE(world.store.holds().release(object, maker.client));
  CHECK(world.segments.find(one)->live_objects() == 0);
  CHECK(world.segments.find(other)->live_bytes() == 0);
}

TEST_CASE("only a dead client's segment is sparse, and only once little is left in it") {
  Crowd crowd;
  for (std::size_t i = 1; i < 100; ++i)
    if (i != 50) REQUIRE(crowd.store.holds().release(crowd.objects[i], maker.client));
  CHECK_FALSE(crowd.place()->is_sparse());
  CHECK_FALSE(crowd.segments.has_sparse());
  SECTION("the remaining object has ended with its client") {
    crowd.maker_dies();
    CHECK(crowd.place()->is_sparse());
    CHECK(crowd.segments.next_sparse() == crowd.place());
  }
  SECTION("the remaining object ends later") {
    std::vector<ObjectId> more;
    for (std::uint64_t i = 100; i < 120; ++i)
      more.push_back(crowd.seal(maker, array(crowd.segment, i * bytes_each, floats_each)));
    for (const auto id : more) REQUIRE(crowd.store.lookup(id, secret, reader));
    crowd.maker_dies();
    CHECK_FALSE(crowd.segments.has_sparse());
    const auto changes = crowd.segments.sparse_changes();
    // A mebibyte is allowed for 15 objects or more.
    for (std::size_t i = 0; i < 5; ++i) REQUIRE(crowd.store.holds().release(more[i], reader.client));
    CHECK_FALSE(crowd.segments.has_sparse());
    REQUIRE(crowd.store.holds().release(more[5], reader.client));
    CHECK(crowd.segments.has_sparse());
    CHECK(crowd.segments.sparse_changes() == changes + 1);
  }
  crowd.store.holds().drop_client(reader.client);
  CHECK_FALSE(crowd.segments.has_sparse());
  CHECK(crowd.segments.size() == 0);
}

TEST_CASE("a moved object keeps its bytes, and its old segment ends") {
  Crowd crowd;
  std::byte* address = crowd.place()->data();
  crowd.maker_dies();
  REQUIRE(crowd.move(crowd.objects[0]));
  CHECK(crowd.segments.find(crowd.segment) == nullptr);
  const auto& leaf = crowd.first->manifest.leaves[0];
  CHECK(leaf.segment != crowd.segment);
  CHECK(host_address(crowd.first->place(0)) == crowd.segments.find(leaf.segment)->data() + leaf.offset);
  CHECK(host_address(crowd.first->place(0)) != address);
  CHECK(crowd.first->segments[0]->id() == leaf.segment);
  CHECK(crowd.first->residents.empty());
  CHECK(crowd.results.used_bytes() >= bytes_each);
  REQUIRE(crowd.store.holds().release(crowd.objects[0], reader.client));
  CHECK(crowd.gone() == std::vector{crowd.objects[0]});
  CHECK(crowd.results.used_bytes() == 0);
}

TEST_CASE("an object stays where it is while an op, a part or a forked child uses it") {
  Crowd crowd;
  crowd.maker_dies();
  const auto id = crowd.objects[0];
  SECTION("an op") {
    auto lease = crowd.store.held(id, reader).value();
    CHECK_FALSE(crowd.move(id));
    lease.reset();
  }
  SECTION("an op that begins while it is copied") {
    auto move = crowd.store.begin_move(id, crowd.place());
    REQUIRE(move);
    move->to = crowd.results.allocate(user, move->bytes).value();
    auto lease = crowd.store.held(id, reader).value();
    CHECK_FALSE(crowd.store.finish_move(std::move(*move)));
    CHECK(host_address(lease->place(0)) == crowd.place()->data());
    lease.reset();
  }
  SECTION("a part") {
    const auto part = crowd.seal(reader, array(crowd.segment, 0, 3), id);
    CHECK_FALSE(crowd.move(id));
    REQUIRE(crowd.store.holds().release(part, reader.client));
  }
  SECTION("a forked child") {
    constexpr ClientId heir{0xf000'0001};
    crowd.store.holds().inherit(reader.client, heir);
    CHECK_FALSE(crowd.move(id));
    crowd.store.holds().drop_client(heir);
  }
  CHECK(crowd.move(id));
}

TEST_CASE("an object that ends while it is copied has not moved") {
  Crowd crowd;
  crowd.maker_dies();
  auto move = crowd.store.begin_move(crowd.objects[0], crowd.place());
  REQUIRE(move);
  move->to = crowd.results.allocate(user, move->bytes).value();
  REQUIRE(crowd.store.holds().release(crowd.objects[0], reader.client));
  CHECK_FALSE(crowd.store.finish_move(std::move(*move)));
}

TEST_CASE("another object with the same id is not taken for the copied one") {
  Crowd crowd({.tombstones = 16});
  const auto id = crowd.objects[0];
  auto move = crowd.store.begin_move(id, crowd.place());
  REQUIRE(move);
  move->to = crowd.results.allocate(user, move->bytes).value();
  REQUIRE(crowd.store.holds().release(id, maker.client));
  REQUIRE(crowd.store.holds().release(id, reader.client));
  CHECK(crowd.gone() == std::vector{id});
  // Its end is remembered until other objects have ended.
  for (std::size_t i = 1; i < crowd.objects.size(); ++i)
    REQUIRE(crowd.store.holds().release(crowd.objects[i], maker.client));
  crowd.gone();
  auto again = crowd.store.seal(maker, id, secret, {}, 0, array(crowd.segment, 0, 1), crowd.now);
  REQUIRE(again);
  again->reset();
  CHECK_FALSE(crowd.store.finish_move(std::move(*move)));
}

TEST_CASE("parts are found by the place of their whole before it moved") {
  Crowd crowd;
  crowd.maker_dies();
  REQUIRE(crowd.move(crowd.objects[0]));
  const auto address = host_address(crowd.first->place(0));
  auto by_old_place = crowd.try_seal(reader, array(crowd.segment, 64, 3), crowd.objects[0]);
  REQUIRE(by_old_place);
  CHECK(host_address((*by_old_place)->place(0)) == address + 64);
  const auto& now = crowd.first->manifest.leaves[0];
  CHECK((*by_old_place)->manifest.leaves[0].segment == now.segment);
  CHECK((*by_old_place)->manifest.leaves[0].offset == now.offset + 64);
  // So are parts of parts.
  auto part_of_part = crowd.try_seal(reader, array(crowd.segment, 68, 1), (*by_old_place)->id);
  REQUIRE(part_of_part);
  CHECK(host_address((*part_of_part)->place(0)) == address + 68);
  CHECK((*part_of_part)->parent.get() == crowd.first);
  CHECK(crowd.try_seal(reader, array(now.segment, now.offset + 64, 3), crowd.objects[0]).ok());
  CHECK(code_of(crowd.try_seal(reader, array(crowd.segment, 60, 1), (*by_old_place)->id)) == Code::invalid);
  CHECK(code_of(crowd.try_seal(reader, array(crowd.segment, bytes_each, 1), crowd.objects[0])) == Code::invalid);
}

TEST_CASE("an object of two segments leaves one after the other") {
  StoreWorld world;
  const auto one = world.segment_of(maker);
  const auto other = world.segment_of(maker);
  Manifest manifest = array(other, 0, 10);
  REQUIRE(manifest.add(one, 64, muster::DType::float32, std::vector<std::int64_t>{20}));
  const auto id = world.seal(maker, manifest);
  const Object* object = world.store.lookup(id, secret, reader).value().get();
  world.store.holds().drop_client(maker.client);
  world.segments.drop_client(maker.client);
  for (const auto segment : {one, other}) {
    auto move = world.store.begin_move(id, world.segments.find(segment));
    REQUIRE(move);
    move->to = world.results.allocate(user, move->bytes).value();
    REQUIRE(world.store.finish_move(std::move(*move)));
    CHECK(world.segments.find(segment) == nullptr);
  }
  for (std::size_t i = 0; i < 2; ++i)
    CHECK(host_address(object->place(i)) ==
          world.segments.find(object->manifest.leaves[i].segment)->data() + object->manifest.leaves[i].offset);
  CHECK(world.try_seal(reader, array(one, 68, 5), id).ok());
  CHECK(world.try_seal(reader, array(other, 4, 5), id).ok());
}

TEST_CASE("the old places of many moved leaves are charged") {
  StoreWorld world;
  const auto segment = world.segment_of(maker);
  Manifest manifest;
  for (std::uint64_t i = 0; i < 500; ++i)
    REQUIRE(manifest.add(segment, i * 64, muster::DType::float32, std::vector<std::int64_t>{2}));
  const auto id = world.seal(maker, manifest);
  const Object* object = world.store.lookup(id, secret, reader).value().get();
  world.store.holds().drop_client(maker.client);
  world.segments.drop_client(maker.client);
  auto move = world.store.begin_move(id, world.segments.find(segment));
  move->to = world.results.allocate(user, move->bytes).value();
  REQUIRE(world.store.finish_move(std::move(*move)));
  CHECK(object->moved->charge.amount() >= 500 * sizeof(ipc::Leaf));
  world.store.holds().drop_client(reader.client);
  world.gone();
  world.results.trim();
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("the effort of a move counts all arrays and all holders of an object") {
  StoreWorld world;
  const Payer alice{1000, ClientId{1}};
  const auto id = world.seal(alice, array(world.segment_of(alice), 0, 4));
  CHECK(world.store.looks_of_move(id) == 2);
  constexpr std::uint32_t readers = 100;
  for (std::uint32_t i = 0; i < readers; ++i) REQUIRE(world.store.lookup(id, secret, {1000, ClientId{2 + i}}));
  CHECK(world.store.looks_of_move(id) == 2 + readers);
  REQUIRE(world.store.holds().release(id, ClientId{2}));
  CHECK(world.store.looks_of_move(id) == 1 + readers);
}
