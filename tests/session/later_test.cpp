// Postponed work is done one item in a turn.
#include <catch2/catch.hpp>

#include <vector>

#include "session/later.hpp"

using namespace musterd;

TEST_CASE("one item is done in each turn, in order, and new items come after the others") {
  Later later;
  std::vector<int> done;
  for (int i = 0; i < 3; ++i)
    later.add([&, i] {
      done.push_back(i);
      if (i == 0) later.add([&] { done.push_back(3); });
    });
  for (std::size_t turn = 1; turn <= 4; ++turn) {
    CHECK(later.run_one());
    CHECK(done.size() == turn);
  }
  CHECK(done == std::vector<int>{0, 1, 2, 3});
  CHECK_FALSE(later.run_one());
  later.add([&] { done.push_back(4); });
  later.clear();
  CHECK(later.empty());
  CHECK_FALSE(later.run_one());
  CHECK(done.size() == 4);
}
