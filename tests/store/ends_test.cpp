#include <catch2/catch.hpp>

#include "store/ends.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;

namespace {

struct EndsWorld : StoreWorld {
  /// An object whose end is noted.
  std::shared_ptr<Watched> watched(StoreEntry& entry) {
    auto made = std::make_shared<Watched>();
    made->object.entry = &entry;
    made->ends = ends;
    return made;
  }
  std::shared_ptr<Ends> ends = std::make_shared<Ends>(segments);
};

}  // namespace

TEST_CASE("each end is told once, in the order of ends") {
  EndsWorld world;
  StoreEntry one;
  StoreEntry other;
  auto first = world.watched(one);
  auto second = world.watched(other);
  CHECK(world.ends->take() == nullptr);
  second.reset();
  first.reset();
  CHECK(world.ends->count() == 2);
  CHECK(world.ends->take() == &other);
  CHECK(world.ends->take() == &one);
  CHECK(world.ends->take() == nullptr);
  CHECK(world.ends->count() == 0);
}

TEST_CASE("an object ends with its last pointer, wherever that is") {
  EndsWorld world;
  StoreEntry entry;
  auto watched = world.watched(entry);
  ObjectPtr op(watched, &watched->object);
  watched.reset();
  CHECK(world.ends->count() == 0);
  op.reset();
  CHECK(world.ends->take() == &entry);
}

TEST_CASE("an object that the store never had leaves no end") {
  EndsWorld world;
  StoreEntry entry;
  auto watched = world.watched(entry);
  watched->ends.reset();
  watched.reset();
  CHECK(world.ends->count() == 0);
}

TEST_CASE("after the end of the store nothing is noted") {
  EndsWorld world;
  StoreEntry one;
  StoreEntry other;
  auto first = world.watched(one);
  auto second = world.watched(other);
  first.reset();
  world.ends->close();
  second.reset();
  CHECK(world.ends->take() == nullptr);
}

TEST_CASE("a large description is freed elsewhere, and stays charged until then") {
  EndsWorld world;
  world.keeps_remains = true;
  StoreEntry entry;
  const auto end_with = [&](std::uint64_t bytes) {
    auto watched = world.watched(entry);
    watched->object.user = 1000;
    watched->object.metadata = world.ledger.charge({1000, {}}, Resource::memory, bytes).value();
    watched.reset();
    CHECK(world.ends->take() == &entry);
  };
  end_with(16 << 10);
  CHECK(world.disposals.empty());
  CHECK(world.ledger.total().used[Resource::memory] == 0);
  end_with(64 << 10);
  REQUIRE(world.disposals.size() == 1);
  CHECK(world.ledger.total().used[Resource::memory] == 64 << 10);
  world.descriptions.clear();
  world.disposals.front()();
  CHECK(world.ledger.total().used[Resource::memory] == 0);
}
