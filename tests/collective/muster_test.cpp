// What the ranks of a group see of the ops that they start: examples, each of one rule.
#include <catch2/catch.hpp>

#include <random>

#include "collective/muster.hpp"
#include "inputs.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::DType;
using muster::ReduceOp;
using muster::ipc::Kind;
using muster::ipc::Layout;

namespace {

/// A group under test: sends contributions in and keeps what comes out.
struct Scene {
  explicit Scene(int world_size, Muster::Limits limits = {}) : muster(world_size, all(world_size), limits) {}

  static std::vector<int> all(int world_size) {
    std::vector<int> ranks;
    for (int rank = 0; rank < world_size; ++rank) ranks.push_back(rank);
    return ranks;
  }

  Ticket give(Contribution made) {
    made.ticket = ++last_ticket;
    handle = muster.contribute(std::move(made), now, actions);
    collect();
    return last_ticket;
  }
  Ticket barrier(int rank, std::string key = {}) {
    auto made = contribution(rank, Kind::barrier, 0);
    made.key = std::move(key);
    return give(std::move(made));
  }
  Ticket reform(int rank) { return give(contribution(rank, Kind::reform, 0)); }
  Ticket allreduce(int rank, Array one, ReduceOp op = ReduceOp::sum) {
    auto made = contribution(rank, Kind::allreduce, 0);
    made.op = op;
    made.inputs.push_back(plain(std::move(one)));
    return give(std::move(made));
  }
  Ticket rooted(int rank, Kind kind, int root) {
    auto made = contribution(rank, kind, 0);
    made.root = root;
    if (kind != Kind::broadcast || rank == root) made.inputs.push_back(plain(floats({1})));
    return give(std::move(made));
  }
  Ticket pair(int rank, Kind kind, int peer, std::int64_t tag = 0) {
    auto made = contribution(rank, kind, 0);
    made.root = peer;
    made.tag = tag;
    if (kind == Kind::send) made.inputs.push_back(plain(floats({1})));
    return give(std::move(made));
  }

  void collect() {
    for (Action& action : actions) {
      if (auto* started = std::get_if<StartOp>(&action)) ops.push_back(started->op);
      if (auto* failed = std::get_if<FailOp>(&action))
        for (Ticket ticket : failed->tickets) failures.emplace(ticket, failed->error);
    }
    actions.clear();
  }
  void lose(int rank, const char* how = "died") { muster.lose(rank, {how, {}}, actions, plenty), collect(); }
  void shrink(int rank) { muster.shrink(rank, {"died", {}}, actions, plenty), collect(); }
  void vacate(int rank) { muster.vacate(rank, {"died", {}}, actions, plenty), collect(); }
  void expire(int ms) { muster.expire(now = at_ms(ms), actions, plenty, locate), collect(); }
  Muster::Locate locate;

  std::size_t plenty = std::size_t{1} << 30;

  [[nodiscard]] const muster::Error& error(Ticket ticket) const { return failures.at(ticket); }

  Muster muster;
  std::vector<Action> actions;
  std::vector<OpPtr> ops;
  std::map<Ticket, muster::Error> failures;
  Ticket last_ticket = 0;
  Muster::Handle handle;  ///< of the last contribution's op, if it still gathers
  TimePoint now = at_ms(0);
};

std::vector<int> ranks_of(const Op& op) {
  std::vector<int> ranks;
  for (const auto& each : op.contributions) ranks.push_back(each.rank);
  return ranks;
}

}  // namespace

TEST_CASE("an op starts with its last contribution, in rank order") {
  Scene scene(3);
  scene.barrier(2);
  scene.barrier(0);
  CHECK(scene.ops.empty());
  const auto op = scene.handle;
  CHECK(scene.muster.missing(op) == std::vector{1});
  scene.barrier(1);
  CHECK(scene.handle == Muster::Handle{});
  CHECK(scene.muster.missing(op).empty());
  REQUIRE(scene.ops.size() == 1);
  CHECK(scene.ops[0]->name == "barrier #0");
  CHECK(ranks_of(*scene.ops[0]) == std::vector{0, 1, 2});
  CHECK(scene.ops[0]->contributions.at(1).ticket == 3);
  CHECK(scene.muster.in_flight() == 1);
  scene.muster.finished(scene.ops[0]->id);
  CHECK(scene.muster.in_flight() == 0);
  CHECK_FALSE(scene.muster.next_deadline());
}

TEST_CASE("a group of one starts at once") {
  Scene scene(1);
  scene.allreduce(0, floats({1}));
  CHECK(scene.ops.size() == 1);
}

TEST_CASE("calls match in order, however far ahead a rank is") {
  Scene scene(2);
  scene.allreduce(0, floats({1}));
  scene.barrier(0);
  scene.allreduce(0, floats({1, 2}));
  CHECK(scene.muster.position(0) == 3);
  CHECK(scene.muster.position(1) == 0);
  scene.allreduce(1, floats({1}));
  scene.barrier(1);
  scene.allreduce(1, floats({1, 2}));
  REQUIRE(scene.ops.size() == 3);
  CHECK(scene.ops[2]->name == "allreduce #2");
  CHECK(scene.failures.empty());
}

TEST_CASE("calls with a key match in any order, and don't count in the order") {
  Scene scene(2);
  scene.barrier(0, "a");
  scene.barrier(0, "b");
  scene.barrier(0);
  scene.barrier(1, "b");
  scene.barrier(1);
  scene.barrier(1, "a");
  REQUIRE(scene.ops.size() == 3);
  CHECK(scene.ops[0]->name == "barrier 'b'");
  CHECK(scene.ops[1]->name == "barrier #0");
  CHECK(scene.ops[2]->name == "barrier 'a'");
  SECTION("a key may be used again") {
    scene.barrier(0, "a");
    scene.barrier(0, "a");
    scene.barrier(1, "a");
    scene.barrier(1, "a");
    CHECK(scene.ops.size() == 5);
  }
}

TEST_CASE("send and recv match by source, destination and tag, in order") {
  Scene scene(3);
  scene.pair(0, Kind::send, 1, 7);
  scene.pair(1, Kind::recv, 0, 8);
  scene.pair(1, Kind::recv, 2, 7);
  CHECK(scene.ops.empty());
  scene.pair(1, Kind::recv, 0, 7);
  REQUIRE(scene.ops.size() == 1);
  CHECK(scene.ops[0]->name == "send 0->1 tag 7");
  CHECK(ranks_of(*scene.ops[0]) == std::vector{0, 1});
  CHECK(scene.muster.position(0) == 0);
  SECTION("also with oneself") {
    scene.pair(2, Kind::recv, 2);
    scene.pair(2, Kind::send, 2);
    REQUIRE(scene.ops.size() == 2);
    CHECK(scene.ops[1]->contributions[0].kind == Kind::send);
    CHECK(scene.ops[1]->contributions[1].kind == Kind::recv);
  }
}

TEST_CASE("a disagreement fails the op on every rank, with both values") {
  Scene scene(4);
  scene.barrier(3), scene.barrier(2), scene.barrier(1), scene.barrier(0);
  const Ticket first = scene.allreduce(0, floats({1, 2}));
  scene.allreduce(1, floats({1, 2}));
  CHECK(scene.failures.empty());
  const Ticket wrong = scene.allreduce(2, array<double>(DType::float64, {2}, {1, 2}));
  const std::string message = "ranks disagree on allreduce #1: dtype is float32 on ranks 0, 1 and float64 on rank 2";
  CHECK(scene.error(first).message() == message);
  CHECK(scene.error(wrong).message() == message);
  CHECK(scene.error(wrong).code() == Code::mismatch);
  CHECK(scene.error(wrong).ranks() == std::vector{2});
  const Ticket late = scene.allreduce(3, floats({1, 2}));
  CHECK(scene.error(late).message() == message);
  for (int rank : {0, 1, 2, 3}) scene.barrier(rank);
  CHECK(scene.ops.size() == 2);
}

TEST_CASE("every field that matters is compared") {
  Scene scene(2);
  auto disagree = [&](Contribution a, Contribution b) {
    scene.give(std::move(a));
    const Ticket ticket = scene.give(std::move(b));
    return scene.failures.contains(ticket) ? scene.error(ticket).message() : std::string("agree");
  };
  auto with = [](int rank, Kind kind, Inputs inputs) {
    auto made = contribution(rank, kind, 0);
    made.inputs = std::move(inputs);
    return made;
  };
  SECTION("kind") {
    CHECK(disagree(contribution(0, Kind::barrier, 0), with(1, Kind::allreduce, {plain(floats({1}))})) ==
          "ranks disagree on barrier #0: kind is barrier on rank 0 and allreduce on rank 1");
    CHECK(scene.error(1).ranks() == std::vector{0, 1});
  }
  SECTION("reduce op, shape and dtype in one message") {
    auto a = with(0, Kind::allreduce, {plain(floats({1}))});
    auto b = with(1, Kind::allreduce, {plain(blank(DType::int8, {1, 2}))});
    b.op = ReduceOp::max;
    const auto message = disagree(std::move(a), std::move(b));
    CHECK(message ==
          "ranks disagree on allreduce #0: reduce op is sum on rank 0 and max on rank 1; dtype is float32 on "
          "rank 0 and int8 on rank 1; shape is (1,) on rank 0 and (1, 2) on rank 1");
  }
  SECTION("root") {
    auto a = with(0, Kind::broadcast, {plain(floats({1}))});
    auto b = with(1, Kind::broadcast, {plain(floats({1}))});
    b.root = 1;
    const auto message = disagree(std::move(a), std::move(b));
    CHECK(message == "ranks disagree on broadcast #0: root is 0 on rank 0 and 1 on rank 1");
  }
  SECTION("layout") {
    auto a = with(0, Kind::allgather, {plain(floats({1}))});
    auto b = with(1, Kind::allgather, {plain(floats({1}))});
    b.layout = Layout::stack;
    const auto message = disagree(std::move(a), std::move(b));
    CHECK(message == "ranks disagree on allgather #0: layout is parts on rank 0 and stack on rank 1");
  }
  SECTION("leaves") {
    CHECK(disagree(with(0, Kind::allreduce, {bundle({floats({1}), floats({2})})}),
                   with(1, Kind::allreduce, {bundle({floats({1})})})) ==
          "ranks disagree on allreduce #0: number of leaves is 2 on rank 0 and 1 on rank 1");
  }
  SECTION("structure") {
    CHECK(disagree(with(0, Kind::allreduce, {bundle({floats({1})}, "{a}")}),
                   with(1, Kind::allreduce, {bundle({floats({1})}, "{b}")})) ==
          "ranks disagree on allreduce #0: structure is one that is too large to show on rank 0 and another one on "
          "rank 1");
  }
  const std::string list = {'L', 2, 0, 0, 0, 'A', 'A'};
  const std::string dict = {'D', 1, 0, 0, 0, 's', 1, 0, 0, 0, 'w', 'L', 2, 0, 0, 0, 'A', 'A'};
  SECTION("structure: the first path that differs") {
    CHECK(disagree(with(0, Kind::allreduce, {bundle({floats({1}), floats({2})}, list)}),
                   with(1, Kind::allreduce, {bundle({floats({1}), floats({2})}, dict)})) ==
          "ranks disagree on allreduce #0: the value is a list of 2 on rank 0 and a dict of 1 on rank 1; structure is "
          "[*, *] on rank 0 and {'w': [*, *]} on rank 1");
  }
  SECTION("structure: before what would follow from it") {
    const std::string other = {'D', 1, 0, 0, 0, 's', 1, 0, 0, 0, 'w', 'L', 2, 0, 0, 0, 'A', 'Z'};
    CHECK(
        disagree(with(0, Kind::allreduce, {bundle({floats({1}), floats({2})}, dict)}),
                 with(1, Kind::allreduce, {bundle({floats({1})}, other)})) ==
        "ranks disagree on allreduce #0: w[1] is an array on rank 0 and None on rank 1; structure is {'w': [*, *]} on "
        "rank 0 and {'w': [*, None]} on rank 1");
  }
  SECTION("leaves have names") {
    CHECK(disagree(with(0, Kind::allreduce, {bundle({floats({1}), floats({2})}, dict)}),
                   with(1, Kind::allreduce, {bundle({floats({1}), floats({3, 4})}, dict)})) ==
          "ranks disagree on allreduce #0: shape of w[1] is (1,) on rank 0 and (2,) on rank 1");
  }
  SECTION("the guise is each rank's own") {
    CHECK(disagree(with(0, Kind::allreduce, {bundle({floats({1})}, "A", {1, 0, 0, 0, 'T'})}),
                   with(1, Kind::allreduce, {bundle({floats({1})}, "A")})) == "agree");
  }
  SECTION("each input of a reduce_scatter") {
    CHECK(disagree(with(0, Kind::reduce_scatter, {plain(floats({1})), plain(floats({1}))}),
                   with(1, Kind::reduce_scatter, {plain(floats({1})), plain(floats({1, 2}))})) ==
          "ranks disagree on reduce_scatter #0: shape of input 1 is (1,) on rank 0 and (2,) on rank 1");
  }
  SECTION("shapes of parts are each rank's own") {
    CHECK(disagree(with(0, Kind::allgather, {plain(floats({1}))}), with(1, Kind::allgather, {plain(floats({1, 2}))})) ==
          "agree");
  }
  SECTION("joined arrays may differ along axis 0 only") {
    auto a = with(0, Kind::all_to_all, {plain(blank(DType::int8, {2, 3})), plain(blank(DType::int8, {1, 3}))});
    auto b = with(1, Kind::all_to_all, {plain(blank(DType::int8, {4, 3})), plain(blank(DType::int8, {0, 4}))});
    a.layout = b.layout = Layout::concat;
    const auto message = disagree(std::move(a), std::move(b));
    CHECK(message == "ranks disagree on all_to_all #0: shape of input 1 is (1, 3) on rank 0 and (0, 4) on rank 1");
  }
  SECTION("the last of many leaves") {
    std::vector<Array> all(3000, floats({1}));
    std::vector<Array> other = all;
    other.back() = blank(DType::float32, {1, 1});
    CHECK(disagree(with(0, Kind::allreduce, {bundle(all)}), with(1, Kind::allreduce, {bundle(other)})) ==
          "ranks disagree on allreduce #0: shape of leaf 2999 is (1,) on rank 0 and (1, 1) on rank 1");
  }
  SECTION("the same sizes in a row, cut into shapes elsewhere") {
    auto a = with(0, Kind::allreduce, {bundle({blank(DType::int8, {2, 3}), blank(DType::int8, {4})})});
    auto b = with(1, Kind::allreduce, {bundle({blank(DType::int8, {2}), blank(DType::int8, {3, 4})})});
    const auto message = disagree(std::move(a), std::move(b));
    CHECK(message.find("shape of leaf 0 is (2, 3) on rank 0 and (2,) on rank 1") != std::string::npos);
  }
  SECTION("many differences are counted, not listed") {
    std::vector<Array> three(9, floats({1}));
    std::vector<Array> other(9, blank(DType::int8, {1}));
    const auto message = disagree(with(0, Kind::allreduce, {bundle(three)}), with(1, Kind::allreduce, {bundle(other)}));
    CHECK(message.ends_with("dtype of leaf 3 is float32 on rank 0 and int8 on rank 1; and 5 more fields"));
  }
}

TEST_CASE("a call that can't work is Invalid on every rank") {
  Scene scene(2);
  SECTION("root out of range") {
    scene.rooted(0, Kind::gather, 5);
    CHECK(scene.error(1).message() ==
          "gather #0 can't work: rank 0 gave it root 5, which is out of range: world_size is 2");
    CHECK(scene.error(1).code() == Code::invalid);
    CHECK(scene.error(1).ranks() == std::vector{0});
    scene.rooted(1, Kind::gather, 0);
    CHECK(scene.error(2).message() == scene.error(1).message());
  }
  SECTION("peer out of range") {
    scene.pair(0, Kind::recv, -1);
    CHECK(scene.error(1).code() == Code::invalid);
    CHECK(scene.muster.in_flight() == 0);
  }
  SECTION("number of inputs") {
    auto made = contribution(1, Kind::reduce_scatter, 0);
    made.inputs.push_back(plain(floats({1})));
    scene.give(std::move(made));
    CHECK(scene.error(1).message() == "reduce_scatter #0 can't work: rank 1 gave it 1 inputs instead of 2");
  }
  SECTION("an op without meaning for the dtype") {
    scene.allreduce(0, floats({1}), ReduceOp::bxor);
    CHECK(scene.error(1).message() ==
          "allreduce #0 can't work: rank 0 gave it an array of dtype float32, for which bxor has no meaning");
    CHECK_THAT(scene.error(1).hint(), Catch::Matchers::StartsWith("bitwise ops take bool and integers: "));
  }
  SECTION("an op without meaning for one dtype of many leaves") {
    std::vector<Array> arrays(100, blank(DType::int8, {1}));
    arrays[70] = floats({1});
    auto made = contribution(0, Kind::allreduce, 0);
    made.op = ReduceOp::bxor;
    made.inputs = {bundle(std::move(arrays))};
    scene.give(std::move(made));
    CHECK(scene.error(1).message() ==
          "allreduce #0 can't work: rank 0 gave it an array (leaf 70) of dtype float32, for which bxor has no meaning");
  }
  SECTION("joining one array without dimensions among many") {
    std::vector<Array> arrays(100, blank(DType::int8, {1}));
    arrays[70] = blank(DType::int8, {});
    auto made = contribution(0, Kind::all_to_all, 0);
    made.layout = Layout::concat;
    made.inputs = {bundle(arrays), bundle(arrays)};
    scene.give(std::move(made));
    CHECK(scene.error(1).message().find("an array (leaf 70) of no dimensions") != std::string::npos);
  }
  SECTION("joining arrays without dimensions") {
    auto made = contribution(0, Kind::all_to_all, 0);
    made.layout = Layout::concat;
    made.inputs = {plain(blank(DType::int8, {})), plain(blank(DType::int8, {}))};
    scene.give(std::move(made));
    CHECK(scene.error(1).code() == Code::invalid);
  }
}

TEST_CASE("an op that no plan can serve fails before all ranks have called it") {
  constexpr int ranks = 1024;
  const auto [kind, layout, first_refused, told] = GENERATE(table<Kind, Layout, int, std::string>({
      {Kind::all_to_all, Layout::parts, 129, "129 of its ranks would give it 132096 objects of at most 131072"},
      {Kind::reduce_scatter, Layout::parts, 129, "129 of its ranks would give it 132096 objects of at most 131072"},
  }));
  Scene scene(ranks);
  const Input nothing = plain(blank(DType::int8, {0}));
  Ticket last = 0;
  for (int rank = 0; rank < first_refused; ++rank) {
    CHECK(scene.failures.empty());
    auto made = contribution(rank, kind, 0);
    made.layout = layout;
    made.inputs.assign(ranks, nothing);
    last = scene.give(std::move(made));
  }
  CHECK(scene.failures.size() == static_cast<std::size_t>(first_refused));
  CHECK(scene.error(last).code() == Code::invalid);
  CHECK(scene.error(last).message().find(told) != std::string::npos);
}

TEST_CASE("an op whose ranks would get too many objects fails before all ranks have called it") {
  constexpr int ranks = 300;
  Scene scene(ranks);
  const Input nothing = plain(blank(DType::int8, {0}));
  for (int rank = 0; rank < 182; ++rank) {
    CHECK(scene.failures.empty());
    auto made = contribution(rank, Kind::all_to_all, 0);
    made.inputs.assign(ranks, nothing);
    scene.give(std::move(made));
  }
  CHECK(scene.error(1).message().find("182 of its ranks would get 33124 objects of at most 32768") !=
        std::string::npos);
}

TEST_CASE("the larger the contributions of ops, the fewer ops end at once") {
  constexpr int ranks = 64;
  Scene scene(ranks);
  for (const std::string key : {"a", "b", "c"}) {
    auto made = contribution(0, Kind::all_to_all, 0);
    made.key = key;
    made.inputs.assign(ranks, plain(blank(DType::int8, {0})));
    scene.give(std::move(made));
    scene.barrier(1, "nothing " + key);
  }
  std::size_t left = 24;
  scene.muster.lose(ranks - 1, {"died", {}}, scene.actions, left);
  scene.collect();
  CHECK(scene.failures.size() == 3);
}

TEST_CASE("a timeout names the missing ranks, and the group goes on") {
  Scene scene(3);
  auto soon = contribution(2, Kind::barrier, 0, 500);
  scene.barrier(1);
  scene.give(std::move(soon));
  CHECK(scene.muster.next_deadline() == at_ms(500));
  scene.expire(499);
  CHECK(scene.failures.empty());
  scene.expire(500);
  CHECK(scene.error(1).code() == Code::timeout);
  CHECK(scene.error(1).message() == "barrier #0 waited 0.5 s for rank 0; ranks 1, 2 were there");
  CHECK(scene.error(1).ranks() == std::vector{0});
  CHECK(scene.error(2).message() == scene.error(1).message());
  CHECK_FALSE(scene.muster.next_deadline());
  CHECK(scene.error(scene.barrier(0)).message() == scene.error(1).message());
  for (int rank : {0, 1, 2}) scene.barrier(rank);
  CHECK(scene.ops.size() == 1);
}

TEST_CASE("policy fail: ops that wait for the lost rank fail, and so do all later ops") {
  Scene scene(3);
  scene.barrier(0);           // waits for 1 and 2
  scene.barrier(2, "given");  // rank 2 has contributed
  scene.lose(2);
  CHECK(scene.error(1).code() == Code::peer_lost);
  CHECK(scene.error(1).message() == "barrier #0 waited for a rank that is lost: rank 2 died");
  CHECK(scene.error(1).ranks() == std::vector{2});
  CHECK_FALSE(scene.failures.contains(2));
  scene.barrier(0, "given"), scene.barrier(1, "given");
  CHECK(scene.ops.size() == 1);
  CHECK(scene.error(scene.barrier(1)).message() == scene.error(1).message());
  scene.lose(1);
  const auto& refused = scene.error(scene.barrier(0));
  CHECK(refused.message() == "barrier #1 can't start, the group has lost ranks: ranks 1, 2 died");
  CHECK(refused.ranks() == std::vector{1, 2});
  CHECK(scene.muster.lost() == std::set{1, 2});
}

TEST_CASE("policy fail: two live ranks go on while the others have only left") {
  Scene scene(4);
  scene.lose(3, "left");
  CHECK(scene.error(scene.barrier(0)).code() == Code::peer_lost);
  CHECK(scene.error(scene.pair(0, Kind::send, 3)).message() ==
        "send 0->3 tag 0 can't start, the group has lost ranks: rank 3 left");
  scene.pair(0, Kind::send, 1), scene.pair(1, Kind::recv, 0);
  REQUIRE(scene.ops.size() == 1);
  const auto waits = scene.pair(1, Kind::recv, 2);
  scene.lose(2, "left");
  CHECK(scene.error(waits).code() == Code::peer_lost);
  Scene other(4);
  other.lose(3, "left"), other.lose(2);
  CHECK(other.error(other.pair(0, Kind::send, 1)).ranks() == std::vector{2, 3});
}

TEST_CASE("policy shrink: the others go on, but not without a root") {
  Scene scene(3);
  scene.barrier(0), scene.barrier(1);
  scene.rooted(0, Kind::broadcast, 2);
  scene.pair(0, Kind::recv, 2);
  scene.shrink(2);
  REQUIRE(scene.ops.size() == 1);
  CHECK(ranks_of(*scene.ops[0]) == std::vector{0, 1});
  CHECK(scene.error(3).code() == Code::peer_lost);
  CHECK(scene.error(3).message() == "broadcast #1 needs a rank that is lost: rank 2 died");
  CHECK_THAT(scene.error(3).hint(),
             Catch::Matchers::StartsWith("call it again on every live rank with a root or peer"));
  CHECK(scene.error(4).code() == Code::peer_lost);
  CHECK(scene.error(scene.rooted(1, Kind::broadcast, 2)).message() == scene.error(3).message());
  CHECK(scene.error(scene.pair(1, Kind::send, 2)).ranks() == std::vector{2});
  for (const int rank : {0, 1}) CHECK(scene.error(scene.rooted(rank, Kind::reduce, 2)).hint() == scene.error(3).hint());
  scene.allreduce(0, floats({1})), scene.allreduce(1, floats({1}));
  CHECK(scene.ops.size() == 2);
}

TEST_CASE("policy wait: a replacement takes the seat and is told what it owes") {
  Scene scene(2);
  scene.barrier(0), scene.barrier(1);
  scene.allreduce(0, floats({1}));
  scene.barrier(0, "k");
  scene.pair(0, Kind::send, 1, 3);
  scene.vacate(1);
  CHECK(scene.failures.empty());
  SECTION("in time") {
    scene.muster.reoccupy(1);
    CHECK(scene.muster.position(1) == 1);
    const auto owed = scene.muster.owed(1);
    REQUIRE(owed.size() == 3);
    CHECK((owed[0].sequence == 1 && owed[0].kind == Kind::allreduce));
    CHECK((owed[1].key == "k" && owed[1].kind == Kind::barrier));
    CHECK(owed[2].kind == Kind::recv);
    scene.allreduce(1, floats({1}));
    CHECK(scene.ops.size() == 2);
    CHECK(scene.muster.lost().empty());
  }
  SECTION("too late") {
    scene.expire(1000);
    CHECK(scene.error(3).code() == Code::peer_lost);
    CHECK(scene.error(3).message() ==
          "allreduce #1 reached its deadline and nobody took the seat of a lost rank: rank 1 died");
    scene.muster.reoccupy(1);
    CHECK(scene.error(scene.allreduce(1, floats({1}))).message() == scene.error(3).message());
  }
}

TEST_CASE("reforms match only reforms, and wait for nobody who is gone") {
  Scene scene(4);
  auto reform = [&](int rank) { return scene.give(contribution(rank, Kind::reform, 0)); };
  scene.barrier(1);
  scene.lose(3);
  reform(0);
  reform(1);
  CHECK(scene.ops.empty());
  SECTION("the others come") { reform(2); }
  SECTION("the others are lost, too") { scene.lose(2); }
  SECTION("the others are vacant") { scene.vacate(2); }
  REQUIRE(scene.ops.size() == 1);
  CHECK(scene.ops[0]->contributions[0].kind == Kind::reform);
  CHECK(ranks_of(*scene.ops[0])[0] == 0);
}

TEST_CASE("members of an epoch are waited for, absent ranks aren't") {
  Muster muster(4, std::vector{1, 3}, {}, 2);
  std::vector<Action> actions;
  muster.contribute(contribution(1, Kind::barrier, 1), at_ms(0), actions);
  muster.contribute(contribution(3, Kind::barrier, 2), at_ms(0), actions);
  REQUIRE(actions.size() == 1);
  CHECK(std::get<StartOp>(actions[0]).op->id >> 32 == 2);
  auto absent_root = contribution(1, Kind::broadcast, 3);
  muster.contribute(std::move(absent_root), at_ms(0), actions);
  REQUIRE(actions.size() == 2);
  const auto& error = std::get<FailOp>(actions[1]).error;
  CHECK(error.message() == "broadcast #1 needs rank 0, which is not a live member of this epoch");
}

TEST_CASE("abort ends all ops that gather") {
  Scene scene(2);
  scene.barrier(0), scene.barrier(0, "k"), scene.pair(1, Kind::recv, 0);
  scene.muster.abort(muster::Error(Code::daemon_unavailable, "the daemon ended"), scene.actions);
  scene.collect();
  CHECK(scene.failures.size() == 3);
  CHECK(scene.error(scene.barrier(1)).message() == "the daemon ended");
}

TEST_CASE("a seat has a limit of pending ops, and the op over it fails on all seats") {
  Scene scene(2, {.in_flight_max = 3, .history_max = 10});
  for (int i = 0; i < 3; ++i) scene.barrier(0);
  CHECK(scene.failures.empty());
  const auto over = scene.barrier(0);
  CHECK(scene.error(over).code() == Code::quota_exceeded);
  CHECK(scene.error(over).message() == "barrier #3 is one too many: rank 0 has 3 ops pending already");
  for (int i = 0; i < 3; ++i) scene.barrier(1);
  CHECK(scene.ops.size() == 3);
  CHECK(scene.error(scene.barrier(1)).message() == scene.error(over).message());
}

TEST_CASE("history is bounded: old outcomes are forgotten, and the error says so") {
  Scene scene(2, {.in_flight_max = 2, .history_max = 3});
  for (int i = 0; i < 4; ++i) {
    scene.barrier(0);
    scene.expire(1000 * (i + 1));
    scene.now = at_ms(0);
  }
  const auto& forgotten = scene.error(scene.barrier(1));
  CHECK(forgotten.code() == Code::timeout);
  CHECK(forgotten.message().find("its outcome is no longer kept") != std::string::npos);
  CHECK(scene.error(scene.barrier(1)).message() == scene.error(2).message());
}

TEST_CASE("a forgotten outcome still has the same code for all") {
  Scene scene(2, {.in_flight_max = 8, .history_max = 1});
  const auto failed = scene.give(contribution(0, Kind::broadcast, 7));
  REQUIRE(scene.error(failed).code() == Code::invalid);
  scene.give(contribution(0, Kind::broadcast, 7));
  const auto& late = scene.error(scene.barrier(1));
  CHECK(late.code() == Code::invalid);
  CHECK(late.message().find("its outcome is no longer kept") != std::string::npos);
}

TEST_CASE("a failure is remembered at its op's charge, with a shorter message if needed") {
  Ledger ledger({.total = {0, 0, 0, 8, 0, 1 << 20, 0},
                 .per_user = {0, 0, 0, 8, 0, 1 << 20, 0},
                 .per_client = {0, 0, 0, 8, 0, 1 << 20, 0}});
  const auto heap = static_cast<std::size_t>(Resource::heap);
  const std::uint64_t paid = GENERATE(Muster::pending_bytes(), 700);
  Scene scene(2);
  auto first = contribution(0, Kind::broadcast, 0);
  auto charge = ledger.charge({}, Resource::slots, 1, paid);
  REQUIRE(charge);
  first.charge = std::move(*charge);
  first.fault = std::make_shared<muster::Error>(Code::invalid, std::string(300, 'x'), std::string(100, 'y'));
  const auto told = scene.give(std::move(first));
  CHECK(ledger.total().used[static_cast<std::size_t>(Resource::slots)] == 0);
  CHECK(ledger.total().used[heap] > 400);
  CHECK(ledger.total().used[heap] <= paid);
  const auto& late = scene.error(scene.barrier(1));
  CHECK(late.code() == Code::invalid);
  CHECK(late.message() == scene.error(told).message());
  CHECK(late.hint() == scene.error(told).hint());
  CHECK(late.ranks() == scene.error(told).ranks());
  CHECK(ledger.total().used[heap] == 0);
}

TEST_CASE("a rank that never comes can't make the others' record grow") {
  Scene scene(3, {.in_flight_max = 2, .history_max = 3});
  const Ticket oldest = scene.barrier(0);
  for (int i = 0; i < 4; ++i) scene.rooted(0, Kind::gather, 9);
  CHECK_FALSE(scene.failures.contains(oldest));
  scene.rooted(0, Kind::gather, 9);
  CHECK(scene.error(oldest).code() == Code::quota_exceeded);
  CHECK(scene.error(oldest).message() == "barrier #0 is given up: ranks 1, 2 have fallen 5 ops behind the others");
  CHECK(scene.error(scene.barrier(1)).code() == Code::quota_exceeded);
}

TEST_CASE("a rank that is far behind still gets the codes that the others got") {
  std::minstd_rand random(GENERATE(range(1u, 50u)));
  const auto below = [&](unsigned limit) { return static_cast<int>(random() % limit); };
  constexpr int ranks = 3;
  Scene scene(ranks, {.in_flight_max = 2, .history_max = 3, .history_bytes_max = 3000});
  std::vector<std::vector<Ticket>> called(ranks);
  const auto call = [&](int rank) {
    auto made = contribution(rank, Kind::barrier, 0);
    const Code codes[] = {Code::invalid, Code::denied, Code::object_lost};
    if (below(4) > 0) made.fault = std::make_shared<muster::Error>(codes[below(2) + below(2)], "no array");
    called[static_cast<std::size_t>(rank)].push_back(scene.give(std::move(made)));
  };
  for (int run = 0; run < 40; ++run)
    for (int rank = below(ranks), calls = below(20); calls > 0; --calls) call(rank);
  for (int rank = 0; rank < ranks; ++rank)
    while (called[static_cast<std::size_t>(rank)].size() < 800) call(rank);
  const auto outcome = [&](Ticket ticket) {
    const auto failed = scene.failures.find(ticket);
    return failed == scene.failures.end() ? "done" : std::string(name(failed->second.code()));
  };
  for (std::size_t op = 0; op < called[0].size(); ++op) {
    INFO("op " << op);
    CHECK(outcome(called[0][op]) == outcome(called[1][op]));
    CHECK(outcome(called[0][op]) == outcome(called[2][op]));
  }
}

TEST_CASE("what is kept of ops that are long over is charged, and ends when no rank can call them any more") {
  Ledger ledger({.total = {0, 0, 0, 8, 0, 1 << 20, 0},
                 .per_user = {0, 0, 0, 8, 0, 1 << 20, 0},
                 .per_client = {0, 0, 0, 8, 0, 1 << 20, 0}});
  const auto charged = [&] { return ledger.total().used[static_cast<std::size_t>(Resource::heap)]; };
  Scene scene(3, {.in_flight_max = 2, .history_max = 2});
  const auto fail = [&](Code code) {
    auto made = contribution(0, Kind::barrier, 0);
    auto charge = ledger.charge({}, Resource::slots, 1, Muster::pending_bytes());
    REQUIRE(charge);
    made.charge = std::move(*charge);
    made.fault = std::make_shared<muster::Error>(code, "no array");
    scene.give(std::move(made));
  };
  const auto fail_many = [&](Code one, Code other) {
    for (int op = 0; op < 20; ++op) fail(op % 2 == 0 ? one : other);
    return charged();
  };
  const auto few = fail_many(Code::invalid, Code::invalid);
  CHECK(fail_many(Code::invalid, Code::invalid) == few);
  CHECK(fail_many(Code::invalid, Code::denied) > few + 10 * sizeof(Charge));
  SECTION("as all have come") {
    for (int op = 0; op < 60; ++op) {
      scene.barrier(1);
      scene.barrier(2);
    }
    CHECK(charged() == 0);
  }
  SECTION("as the epoch is over") {
    for (std::size_t left = 1; !scene.muster.empty(); left = 1)
      scene.muster.dissolve({Code::peer_lost, "the epoch is over"}, scene.actions, left);
    CHECK(charged() == 0);
  }
}

TEST_CASE("history is bounded in bytes, too") {
  Scene scene(2, {.in_flight_max = 4096, .history_max = 4096, .history_bytes_max = 64 << 10});
  const std::string key(4000, 'k');
  for (int op = 0; op < 100; ++op) scene.barrier(0, key + std::to_string(op));
  scene.expire(1000);
  const auto told = scene.failures.size();
  CHECK(told == 100);
  // The late rank gets the newest outcomes. Nothing is known of the oldest one, so its call opens a new op.
  CHECK(scene.error(scene.barrier(1, key + "99")).code() == Code::timeout);
  scene.barrier(1, key + "0");
  CHECK(scene.failures.size() == told + 1);
}

TEST_CASE("ops learn of a loss a few at a time, as many as there is room for") {
  Scene scene(3);
  const auto first = scene.barrier(0, "a");
  const auto second = scene.barrier(0, "b");
  std::size_t left = 1;
  scene.muster.lose(2, {"died", {}}, scene.actions, left);
  scene.collect();
  CHECK(left == 0);
  CHECK(scene.failures.contains(first));
  REQUIRE(scene.muster.is_behind());
  CHECK_FALSE(scene.failures.contains(second));
  SECTION("the rest does later") { scene.muster.catch_up(scene.actions, scene.plenty); }
  SECTION("or when somebody comes to it") {
    const auto late = scene.barrier(1, "b");
    REQUIRE(scene.failures.contains(late));
    CHECK(scene.error(late).describe() == scene.error(second).describe());
  }
  scene.collect();
  REQUIRE(scene.failures.contains(second));
  CHECK(scene.error(second).code() == Code::peer_lost);
  CHECK_FALSE(scene.muster.is_behind());
}

TEST_CASE("an op that has to learn of a loss does not time out before it does") {
  Scene scene(3);
  scene.barrier(0, "a"), scene.barrier(1, "a");
  const auto waits = scene.barrier(0, "b");
  std::size_t none = 0;
  scene.muster.shrink(2, {"died", {}}, scene.actions, none);
  constexpr int a_day = 86'400'000;
  scene.expire(a_day);
  // One op only waited for the lost rank; the other op's error does not name it.
  REQUIRE(scene.ops.size() == 1);
  REQUIRE(scene.failures.size() == 1);
  CHECK(scene.error(waits).code() == Code::timeout);
  CHECK(scene.error(waits).ranks() == std::vector{1});
  CHECK_FALSE(scene.muster.is_behind());
  CHECK_FALSE(scene.muster.next_deadline());
}

TEST_CASE("ops time out in the order of their deadlines, even if a later contribution has an earlier one") {
  Scene scene(3);
  const auto give = [&](int rank, const char* key, int deadline_ms) {
    auto made = contribution(rank, Kind::barrier, 0, deadline_ms);
    made.key = key;
    return scene.give(std::move(made));
  };
  const auto c = give(0, "c", 300);
  const auto a = give(0, "a", 100);
  const auto b = give(0, "b", 400);
  give(1, "b", 200);
  give(1, "c", 500);
  for (const auto& [ms, op] : {std::pair{100, a}, {200, b}, {300, c}}) {
    CHECK(scene.muster.next_deadline() == at_ms(ms));
    CHECK_FALSE(scene.failures.contains(op));
    scene.expire(ms);
    CHECK(scene.failures.contains(op));
  }
  CHECK_FALSE(scene.muster.next_deadline());
}

TEST_CASE("a timeout says where the missing ranks are instead") {
  Scene scene(4);
  const auto message_of = [&](std::map<int, Whereabouts> known) {
    scene.locate = [known = std::move(known)](int rank) mutable { return known[rank]; };
    const auto work = scene.barrier(0, "b");
    scene.expire(1000);
    return scene.error(work).message() + " | " + scene.error(work).hint();
  };
  const auto begins_with = [](const std::string& start) { return Catch::Matchers::StartsWith(start); };
  const std::string waited = "barrier 'b' waited 1 s for ranks 1, 2, 3; rank 0 was there; ";
  SECTION("not there at all") {
    CHECK_THAT(message_of({}),
               begins_with(waited + "rank 1 has not joined the group; rank 2 has not joined the group | "
                                    "start it"));
  }
  SECTION("gone again") {
    Whereabouts gone;
    gone.former = FormerHolder{{"exited with status 3", "pid 7"}, std::chrono::seconds(12)};
    CHECK_THAT(
        message_of({{1, gone}, {2, {}}}),
        begins_with(waited + "rank 1 (pid 7) had joined and exited with status 3 12 s ago; rank 2 has not joined "
                             "the group | see why it ended, and start it again"));
  }
  SECTION("in other ops") {
    auto later = contribution(1, Kind::send, 0, 5000);
    later.tag = 7;
    later.inputs.push_back(plain(floats({1})));
    scene.give(std::move(later));
    CHECK_THAT(
        message_of({{1, {"pid 7", "", false}}, {2, {"pid 8", "", false}}}),
        begins_with(waited +
                    "rank 1 (pid 7) waits in send to rank 0 with tag 7; rank 2 (pid 8) waits in no op of the group | "
                    "every rank must call the same"));
  }
  SECTION("stopped") {
    CHECK_THAT(message_of({{1, {"pid 7", "", true}}, {2, {}}}),
               begins_with(waited + "rank 1 (pid 7) is stopped; rank 2 has not joined the group | let it go on"));
  }
  SECTION("waiting for memory") {
    CHECK_THAT(
        message_of({{1, {"pid 7", "", false, "the store is full"}}, {2, {}}}),
        begins_with(waited + "rank 1 (pid 7) waits for memory, as the store is full; rank 2 has not joined the group | "
                             "free what is not needed"));
  }
}

TEST_CASE("a timeout of a send or recv says who called what") {
  Scene scene(2);
  const auto call = [&](int rank, Kind kind, int peer, std::int64_t tag, int ms, const std::string& key = {}) {
    auto given = contribution(rank, kind, 0, ms);
    given.root = peer;
    given.tag = tag;
    given.key = key;
    if (kind == Kind::send) given.inputs.push_back(plain(floats({1})));
    return scene.give(std::move(given));
  };
  const auto told = [&](auto work) {
    scene.locate = [](int) { return Whereabouts{"pid 7", "", false, {}}; };
    scene.expire(1000);
    return scene.error(work).message() + " | " + scene.error(work).hint();
  };
  const std::string compare =
      " | compare source, destination, tag and key of the two calls, and the order of the calls";
  SECTION("both receive") {
    const auto work = call(0, Kind::recv, 1, 0, 1000);
    call(1, Kind::recv, 0, 0, 5000);
    CHECK(
        told(work) ==
        "rank 0 called recv from rank 1 with tag 0 and waited 1 s for rank 1 to call send to rank 0 with tag 0; rank 1 "
        "(pid 7) waits in recv from rank 0 with tag 0" +
            compare);
  }
  SECTION("another tag") {
    const auto work = call(0, Kind::send, 1, 3, 1000, "k");
    call(1, Kind::recv, 0, 4, 5000);
    CHECK(told(work) ==
          "rank 0 called send to rank 1 with tag 3 and key 'k' and waited 1 s for rank 1 to call recv from rank 0 with "
          "tag 3 and key 'k'; rank 1 (pid 7) waits in recv from rank 0 with tag 4" +
              compare);
  }
  SECTION("to itself") {
    const auto work = call(0, Kind::send, 0, 0, 1000);
    CHECK_THAT(told(work), Catch::Matchers::StartsWith(
                               "rank 0 called send to rank 0 with tag 0 and waited 1 s for its own recv from "
                               "rank 0 with tag 0 | call both before you wait for one of them"));
  }
  SECTION("nobody is there") {
    const auto work = call(0, Kind::recv, 1, 0, 1000);
    CHECK_THAT(told(work),
               Catch::Matchers::EndsWith("rank 1 (pid 7) waits in no op of the group | see what it does; give "
                                         "a longer timeout= if it is only slow"));
  }
}

TEST_CASE("an error names the processes of lost ranks, if they are few") {
  const auto message_of = [](const Losses& losses) { return lost_while_awaited("op", losses).message(); };
  const std::string waited = "op waited for a rank that is lost: ";
  CHECK(message_of({{1, {"died", "pid 7"}}, {2, {"left", ""}}}) == waited + "rank 1 (pid 7) died, rank 2 left");
  CHECK(message_of({{1, {"died", "pid 7"}}, {2, {"died", "pid 8"}}, {3, {"died", "pid 9"}}}) ==
        waited + "ranks 1, 2, 3 died");
}

TEST_CASE("if few ops are late, many ranks are told at once") {
  Scene scene(64);
  for (const char* key : {"a", "b", "c"})
    for (int rank = 0; rank < 63; ++rank) {
      auto made = contribution(rank, Kind::barrier, 0, 100);
      made.key = key;
      scene.give(std::move(made));
    }
  scene.now = at_ms(100);
  for (const std::size_t told : {63U, 126U, 189U}) {
    std::size_t left = 50;
    scene.muster.expire(scene.now, scene.actions, left, {});
    scene.collect();
    CHECK(left == 0);
    CHECK(scene.failures.size() == told);
  }
  CHECK_FALSE(scene.muster.next_deadline());
}

TEST_CASE("among thousands of ops the right one is late, asked for or owed") {
  constexpr int ops = 2000;
  Scene scene(64, {.in_flight_max = 2 * ops});
  for (int i = 0; i < ops; ++i) {
    auto made = contribution(i % 62, Kind::barrier, 0, 1 + (i * 37) % ops);
    made.key = std::to_string(i);
    scene.give(std::move(made));
  }
  CHECK(scene.muster.missing(scene.handle).size() == 63);
  constexpr std::size_t each = 48;
  const auto owed = scene.muster.owed_bytes(63);
  CHECK(owed > ops * each);
  for (int ms = 1; ms <= 20; ++ms) {
    scene.expire(ms);
    CHECK(scene.failures.size() == static_cast<std::size_t>(ms));
    CHECK(scene.muster.next_deadline() == at_ms(ms + 1));
  }
  CHECK(scene.muster.owed_bytes(63) < owed - 20 * each);
  for (int i = 0; i < ops; ++i) scene.pair(0, Kind::recv, 1, i);
  scene.pair(0, Kind::recv, 62);
  scene.vacate(62);
  scene.muster.reoccupy(62);
  CHECK(scene.muster.owed(62).size() == static_cast<std::size_t>(ops - 20) + 1);
}

TEST_CASE("the bytes that name what a rank owes are counted up and down") {
  Scene scene(3);
  constexpr std::size_t each = 48;
  const auto owed = [&] {
    std::vector<std::size_t> bytes;
    for (const int rank : {0, 1, 2}) bytes.push_back(scene.muster.owed_bytes(rank));
    return bytes;
  };
  const auto none = std::vector<std::size_t>{0, 0, 0};
  CHECK(owed() == none);
  SECTION("by order, and by key") {
    scene.barrier(0), scene.barrier(2, "key"), scene.barrier(0, "key");
    CHECK(owed() == std::vector{0 * each, 2 * each + 3, each});
    scene.barrier(1), scene.barrier(2);
    CHECK(owed() == std::vector{0 * each, each + 3, 0 * each});
    scene.barrier(1, "key");
  }
  SECTION("sends and receives") {
    scene.pair(0, Kind::send, 2), scene.pair(0, Kind::recv, 2), scene.pair(1, Kind::send, 1);
    CHECK(owed() == std::vector{0 * each, each, 2 * each});
    scene.pair(1, Kind::recv, 1), scene.pair(2, Kind::recv, 0), scene.pair(2, Kind::send, 0);
  }
  SECTION("ops that fail") {
    scene.barrier(0), scene.barrier(1), scene.pair(0, Kind::send, 1), scene.pair(0, Kind::send, 9);
    CHECK(owed() == std::vector{0 * each, each, each});
    scene.expire(1000);
  }
  CHECK(owed() == none);
}

TEST_CASE("the ops left of an epoch end a few at a time, as many as there is room for") {
  Scene scene(3);
  const auto waits = scene.barrier(0, "a");
  const auto complete = scene.barrier(0, "b");
  scene.barrier(1, "b");
  std::size_t left = 0;
  scene.muster.shrink(2, {"died", {}}, scene.actions, left);
  const muster::Error over(Code::peer_lost, "the epoch is over");
  left = 1;
  scene.muster.dissolve(over, scene.actions, left);
  scene.collect();
  CHECK(scene.error(waits).describe() == over.describe());
  CHECK_FALSE(scene.muster.empty());
  left = 1;
  scene.muster.dissolve(over, scene.actions, left);
  scene.collect();
  CHECK(scene.muster.empty());
  // It only waited for a rank that was lost before.
  CHECK_FALSE(scene.failures.contains(complete));
  CHECK(scene.ops.size() == 1);
}

TEST_CASE("a loss begins the first reform that it completes at once, and the others later") {
  Scene scene(3);
  constexpr int reforms = 3;
  for (int op = 0; op < reforms; ++op) scene.reform(0), scene.reform(1);
  scene.barrier(0);
  std::size_t none = 0;
  switch (GENERATE(muster::OnLoss::fail, muster::OnLoss::shrink, muster::OnLoss::wait)) {
    case muster::OnLoss::fail: scene.muster.lose(2, {"died", {}}, scene.actions, none); break;
    case muster::OnLoss::shrink: scene.muster.shrink(2, {"died", {}}, scene.actions, none); break;
    case muster::OnLoss::wait: scene.muster.vacate(2, {"died", {}}, scene.actions, none); break;
  }
  scene.collect();
  CHECK(scene.ops.size() == 1);
  REQUIRE(scene.muster.is_behind());
  SECTION("as the epoch goes on") {
    scene.muster.catch_up(scene.actions, scene.plenty);
    CHECK_FALSE(scene.muster.is_behind());
  }
  SECTION("as it ends") {
    const muster::Error over(Code::peer_lost, "the epoch is over");
    std::size_t left = 1;
    scene.muster.dissolve(over, scene.actions, left);  // the barrier
    left = 1;
    scene.muster.dissolve(over, scene.actions, left);
    scene.collect();
    CHECK(scene.ops.size() == 2);
    scene.muster.dissolve(over, scene.actions, scene.plenty);
    CHECK(scene.muster.empty());
  }
  scene.collect();
  REQUIRE(scene.ops.size() == reforms);
  for (const auto& op : scene.ops) CHECK(ranks_of(*op) == std::vector{0, 1});
}

TEST_CASE("reforms that a loss has not completed wait for the replacement again") {
  Scene scene(3);
  scene.reform(0), scene.reform(0), scene.reform(1);
  scene.reform(2);
  REQUIRE(scene.ops.size() == 1);
  scene.vacate(2);
  scene.muster.reoccupy(2);
  scene.reform(1);
  CHECK(scene.ops.size() == 1);
  scene.reform(2);
  CHECK(scene.ops.size() == 2);
}

TEST_CASE("the more ranks late ops name, the fewer ops time out at once") {
  constexpr int ranks = 1024;
  constexpr int ops = 100;
  Scene scene(ranks);
  for (int op = 0; op < ops; ++op) {
    auto made = contribution(0, Kind::barrier, 0, 100);
    made.key = std::to_string(op);
    scene.give(std::move(made));
  }
  SECTION("vacant seats") {
    for (int rank = 1; rank < ranks; ++rank) scene.vacate(rank);
  }
  SECTION("ranks that don't come") {}
  scene.now = at_ms(100);
  for (std::size_t told = 0; told < ops;) {
    const std::size_t before = told;
    std::size_t left = 256;
    scene.muster.expire(scene.now, scene.actions, left, {});
    scene.collect();
    told = scene.failures.size();
    REQUIRE(told > before);
    REQUIRE((told - before) * ranks <= 10'000);
  }
  CHECK(scene.error(1).ranks().size() == ranks - 1);
}
