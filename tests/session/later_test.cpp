// What is left for later is done one thing in a turn.
#include <catch2/catch.hpp>

#include <functional>
#include <vector>

#include "session/later.hpp"

using namespace musterd;

TEST_CASE("one thing is done in each turn, in order, and what comes meanwhile comes after") {
  std::vector<std::function<void()>> turns;
  Later later([&](std::function<void()> turn) { turns.push_back(std::move(turn)); });
  std::vector<int> done;
  for (int i = 0; i < 3; ++i)
    later.add([&, i] {
      done.push_back(i);
      if (i == 0) later.add([&] { done.push_back(3); });
    });
  const auto take_turn = [&] {
    REQUIRE(turns.size() == 1);
    const auto turn = std::move(turns.front());
    turns.clear();
    turn();
  };
  for (std::size_t turn = 1; turn <= 4; ++turn) {
    take_turn();
    CHECK(done.size() == turn);
  }
  CHECK(done == std::vector<int>{0, 1, 2, 3});
  CHECK(turns.empty());
  later.add([&] { done.push_back(4); });
  later.clear();
  take_turn();
  CHECK(done.size() == 4);
}
