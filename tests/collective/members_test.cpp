// Who is a member of an epoch, who may still come, and who is lost.
#include <catch2/catch.hpp>

#include "collective/members.hpp"

using musterd::Members;
using Standing = musterd::Members::Standing;

namespace {

const musterd::Loss died{"died", "pid 7"};

std::vector<int> gone(const Members& members) { return {members.gone().begin(), members.gone().end()}; }

}  // namespace

TEST_CASE("the members of an epoch are live, and nobody else is a member") {
  const Members members(4, std::vector{0, 2});
  CHECK(members.world_size() == 4);
  CHECK(members.standing(0) == Standing::live);
  CHECK(members.standing(1) == Standing::absent);
  for (const int no_rank : {-1, 4}) {
    CHECK_FALSE(members.is_rank(no_rank));
    CHECK(members.standing(no_rank) == Standing::absent);
    CHECK_FALSE(members.may_come(no_rank));
  }
  CHECK(members.expected() == 2);
  CHECK(members.count_live() == 2);
  CHECK(members.lost().empty());
}

TEST_CASE("a lost rank is not expected any more") {
  Members members(4, std::vector{0, 1, 2, 3});
  members.withdraw(2, died, Standing::gone);
  members.withdraw(1, {"left", {}}, Standing::gone);
  CHECK(members.standing(2) == Standing::gone);
  CHECK_FALSE(members.may_come(2));
  CHECK(members.expected() == 2);
  CHECK(members.lost() == std::set{1, 2});
  CHECK(members.losses().at(2).process == "pid 7");
  CHECK(members.losses().at(1).how == "left");
  // Ops learn of losses in this order.
  CHECK(gone(members) == std::vector{2, 1});
}

TEST_CASE("a vacant seat is expected, and a replacement takes it") {
  Members members(3, std::vector{0, 1, 2});
  members.withdraw(1, died, Standing::vacant);
  CHECK(members.may_come(1));
  CHECK_FALSE(members.is_live(1));
  CHECK(members.expected() == 3);
  CHECK(members.count_live() == 2);
  CHECK(members.lost() == std::set{1});
  CHECK(gone(members).empty());
  members.reoccupy(1);
  CHECK(members.is_live(1));
  CHECK(members.count_live() == 3);
  CHECK(members.lost().empty());
}

TEST_CASE("new ops are refused only when that was said") {
  Members members(2, std::vector{0, 1});
  members.withdraw(1, died, Standing::gone);
  CHECK_FALSE(members.refuses_ops());
  members.refuse_ops({"left", {}});
  CHECK(members.refuses_ops());
  CHECK_FALSE(members.refuses_pairs());
  members.refuse_ops(died);
  members.refuse_ops({"left", {}});
  CHECK(members.refuses_ops());
  CHECK(members.refuses_pairs());
}
