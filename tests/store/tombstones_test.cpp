#include <catch2/catch.hpp>

#include <algorithm>
#include <deque>
#include <random>
#include <string>
#include <unordered_map>

#include "store/tombstones.hpp"

using muster::ipc::ObjectId;
using musterd::Tombstones;

TEST_CASE("the last ends are remembered, and the oldest is forgotten first") {
  Tombstones tombstones(2);
  CHECK(tombstones.find({1}) == nullptr);
  tombstones.add({1}, {"freed", 1000});
  tombstones.add({2}, {"expired", 1000});
  CHECK(tombstones.find({1})->reason == std::string("freed"));
  tombstones.add({3}, {"freed", 1000});
  CHECK(tombstones.find({1}) == nullptr);
  CHECK(tombstones.find({2})->reason == std::string("expired"));
  CHECK(tombstones.find({3})->reason == std::string("freed"));
}

TEST_CASE("tombstones agree with a list and a map, whatever the order of ids") {
  static const char* const reasons[]{"freed", "expired", "its owner died"};
  for (unsigned seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const std::size_t kept = 1 + random() % 40;
    const std::uint64_t ids = 1 + random() % 200;
    Tombstones tombstones(kept, random() | 1);
    std::deque<std::uint64_t> order;
    std::unordered_map<std::uint64_t, const char*> model;
    for (int step = 0; step < 2000; ++step) {
      const std::uint64_t id = (1 + random() % ids) << (random() % 2 == 0 ? 0 : 32);
      const char* reason = reasons[random() % 3];
      if (model.insert_or_assign(id, reason).second) order.push_back(id);
      if (order.size() > kept) {
        model.erase(order.front());
        order.pop_front();
      }
      tombstones.add({id}, {reason, static_cast<std::uint32_t>(id)});
      const std::uint64_t asked = (1 + random() % ids) << (random() % 2 == 0 ? 0 : 32);
      const auto expected = model.find(asked);
      const auto* found = tombstones.find({asked});
      REQUIRE((found ? found->reason : nullptr) == (expected == model.end() ? nullptr : expected->second));
      if (found) REQUIRE(found->user == static_cast<std::uint32_t>(asked));
    }
    for (const auto id : order) REQUIRE(tombstones.find({id})->reason == model.at(id));
  }
}
