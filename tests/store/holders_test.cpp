#include <catch2/catch.hpp>

#include "store/entries.hpp"

using namespace musterd;
using namespace musterd::testing;

namespace {

constexpr TimePoint now{std::chrono::hours(1)};

/// An object with two holds, a pickle lease and an outcome in a history.
struct Popular {
  Popular() {
    first.count = 3;
    second.by = Holder::LifeLine{{7}};
    second.count = 1;
    holders().holds.push_back(first);
    holders().holds.push_back(second);
    holders().pickles.until = now + std::chrono::minutes(5);
    holders().outcomes = 2;
  }
  ~Popular() { holders().holds.clear(); }
  Popular(const Popular&) = delete;
  Popular& operator=(const Popular&) = delete;
  [[nodiscard]] Holders& holders() const { return object->entry->holders; }

  Entries entries;
  ObjectPtr object = entries.make();
  Hold first{{4}, *object->entry, 0};
  Hold second{{4}, *object->entry, 0};
};

}  // namespace

TEST_CASE("an object's holders are its holds, its pickle lease and its histories") {
  const Popular popular;
  const auto all = popular.holders().first(10, now);
  REQUIRE(all.size() == 4);
  CHECK(std::get<Holder::Client>(all[0].by).id == ClientId{4});
  CHECK(all[0].count == 3);
  CHECK(std::get<Holder::LifeLine>(all[1].by).id == ClientId{7});
  CHECK(all[1].count == 1);
  CHECK(std::holds_alternative<Holder::PickleLease>(all[2].by));
  CHECK(all[2].left == std::chrono::minutes(5));
  CHECK(std::holds_alternative<Holder::History>(all[3].by));
  CHECK(all[3].count == 2);
}

TEST_CASE("of many holds the first are listed, and the other holders after them") {
  const Popular popular;
  const auto some = popular.holders().first(1, now);
  REQUIRE(some.size() == 3);
  CHECK(std::holds_alternative<Holder::Client>(some[0].by));
  CHECK(std::holds_alternative<Holder::PickleLease>(some[1].by));
  CHECK(popular.holders().first(0, now).size() == 2);
}

TEST_CASE("a lease that is over, and no outcomes, are no holders") {
  const Popular popular;
  popular.holders().outcomes = 0;
  CHECK(popular.holders().first(10, now + std::chrono::minutes(4)).size() == 3);
  CHECK(popular.holders().first(10, now + std::chrono::minutes(5)).size() == 2);
}

TEST_CASE("holds and pickles need the store to keep an object, and histories keep it themselves") {
  Popular popular;
  auto& holders = popular.holders();
  CHECK(holders.need_store());
  holders.pickles.until = {};
  CHECK(holders.need_store());
  holders.holds.clear();
  CHECK_FALSE(holders.need_store());
  holders.pickles.until = now;
  CHECK(holders.need_store());
}

TEST_CASE("an entry lets its object go only without holders") {
  Entries entries;
  auto op = entries.make();
  StoreEntry& kept = *op->entry;
  kept.strong = op;
  kept.holders.pickles.until = now;
  kept.end_unless_held("too early");
  CHECK(kept.strong);
  kept.holders.pickles.until = {};
  kept.end_unless_held("in time");
  CHECK_FALSE(kept.strong);
  CHECK(kept.end_reason == std::string("in time"));
  CHECK(lives(kept));
  op.reset();
  CHECK_FALSE(lives(kept));
}
