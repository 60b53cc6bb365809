// Ops in flight and their seats: each event, and what follows from it.
#include <catch2/catch.hpp>

#include <memory>
#include <string>
#include <vector>

#include "core/protocol/seat.hpp"
#include "core/protocol/works.hpp"

namespace {

using muster::Code;
using muster::Error;
using muster::Outcome;
using muster::detail::Seat;
using muster::detail::SeatState;
using muster::detail::Works;
using muster::detail::WorkState;
namespace ipc = muster::ipc;
using Place = Works::Place;

constexpr std::uint32_t in_flight_max = 2;

struct Fixture {
  Works works;
  std::shared_ptr<Seat> seat = std::make_shared<Seat>();
  std::uint64_t last = 0;

  Fixture() {
    seat->id = {7};
    works.seat_taken(seat->id, state(1, {0, 1}));
  }
  static SeatState state(std::uint32_t epoch, std::vector<int> live) {
    SeatState made;
    made.epoch = epoch;
    made.live = std::move(live);
    return made;
  }
  std::shared_ptr<WorkState> work(ipc::Kind kind = ipc::Kind::allreduce) {
    auto made = std::make_shared<WorkState>();
    made->seat = seat;
    made->id = {++last};
    made->kind = kind;
    return made;
  }
  std::shared_ptr<WorkState> started(ipc::Kind kind = ipc::Kind::allreduce) {
    auto made = work(kind);
    REQUIRE(works.start(made, true, in_flight_max).place == Place::taken);
    return made;
  }
  Works::Aftermath over(ipc::WorkId id, muster::Result<Outcome> outcome = Outcome{}, ipc::Done done = {}) {
    Works::Aftermath aftermath;
    works.over(id, std::move(outcome), std::move(done), aftermath);
    return aftermath;
  }
};

ipc::GroupChanged change(std::uint32_t seat, std::uint32_t epoch, std::vector<int> live) {
  ipc::GroupChanged made;
  made.seat = {seat};
  made.epoch = epoch;
  made.live.assign(live.begin(), live.end());
  return made;
}

// ---- seats ----

TEST_CASE_METHOD(Fixture, "a change of the group is seen in its seat") {
  works.group_changed(change(7, 3, {1}));
  CHECK(works.seat({7}).epoch == 3);
  CHECK(works.seat({7}).live == std::vector{1});
}

TEST_CASE_METHOD(Fixture, "a change that comes before its seat counts, unless the seat is newer") {
  works.group_changed(change(8, 3, {1}));
  works.seat_taken({8}, state(2, {0, 1}));
  CHECK(works.seat({8}).epoch == 3);
  works.group_changed(change(9, 3, {1}));
  works.seat_taken({9}, state(4, {0, 1}));
  CHECK(works.seat({9}).epoch == 4);
  CHECK(works.seat({9}).live == std::vector{0, 1});
}

TEST_CASE_METHOD(Fixture, "a seat is left once, by its user or when it is dropped") {
  CHECK(works.leave({7}));
  CHECK_FALSE(works.leave({7}));
  CHECK(works.start(work(), true, in_flight_max).place == Place::left);
  CHECK_FALSE(works.forfeit({7}, true));
  CHECK(works.next_subgroup({7}, "0,1") == 0);
  CHECK_FALSE(works.seat_dropped({7}));
  works.seat_taken({8}, state(1, {0}));
  CHECK(works.seat_dropped({8}));
  CHECK(works.seat({8}).left);
}

TEST_CASE_METHOD(Fixture, "subgroups of the same ranks are told apart") {
  CHECK(works.next_subgroup({7}, "0,1") == 1);
  CHECK(works.next_subgroup({7}, "0,1") == 2);
  CHECK(works.next_subgroup({7}, "1") == 1);
}

TEST_CASE_METHOD(Fixture, "a subgroup that could not be joined is the next one again") {
  CHECK(works.next_subgroup({7}, "0,1") == 1);
  works.subgroup_failed({7}, "0,1", 1);
  CHECK(works.next_subgroup({7}, "0,1") == 1);
  CHECK(works.next_subgroup({7}, "0,1") == 2);
  works.subgroup_failed({7}, "0,1", 1);  // another thread has the second one
  CHECK(works.next_subgroup({7}, "0,1") == 3);
  works.subgroup_failed({8}, "0,1", 1);  // no such seat
}

TEST_CASE_METHOD(Fixture, "after a reform the order of calls begins anew, in an epoch that never goes back") {
  static_cast<void>(started());
  works.group_changed(change(7, 5, {1}));
  ipc::Done done;
  done.epoch = 4;
  done.live = {0, 1};
  works.reformed({7}, done);
  CHECK(works.seat({7}).epoch == 5);
  CHECK(works.seat({7}).live == std::vector{0, 1});
  CHECK(works.seat({7}).position == 0);
}

// ---- ops ----

TEST_CASE_METHOD(Fixture, "an op is over once, with its outcome") {
  const auto work = started();
  CHECK(works.seat({7}).in_flight == 1);
  CHECK_FALSE(work->over);
  Outcome outcome;
  outcome.contributors = 2;
  const auto aftermath = over(work->id, std::move(outcome));
  CHECK(aftermath.over.size() == 1);
  CHECK(work->over);
  CHECK(work->outcome->value().contributors == 2);
  CHECK(works.seat({7}).in_flight == 0);
  // Whatever the daemon says about it later.
  CHECK(over(work->id, Error(Code::timeout, "late")).over.empty());
  CHECK(work->outcome->value().contributors == 2);
  CHECK(works.seat({7}).in_flight == 0);
}

TEST_CASE_METHOD(Fixture, "an op takes its place in the order, and only so many are in flight") {
  const auto first = started();
  const auto second = work(ipc::Kind::send);
  CHECK(works.start(second, false, in_flight_max).place == Place::taken);
  CHECK_FALSE(works.has_room({7}, in_flight_max));
  const auto third = work();
  CHECK(works.start(third, true, in_flight_max).place == Place::full);
  CHECK(works.seat({7}).position == 1);
  static_cast<void>(over(first->id));
  CHECK(works.has_room({7}, in_flight_max));
  CHECK(works.start(third, true, in_flight_max).place == Place::taken);
}

TEST_CASE_METHOD(Fixture, "a call without an input takes its place, and is not in flight") {
  works.group_changed(change(7, 3, {0, 1}));
  CHECK(works.forfeit({7}, true) == 3U);
  CHECK(works.forfeit({7}, false) == 3U);
  CHECK(works.seat({7}).position == 1);
  CHECK(works.seat({7}).in_flight == 0);
}

TEST_CASE_METHOD(Fixture, "an op that could not be sent is not in flight, and keeps its place in the order") {
  const auto work = started();
  works.not_sent(work->id);
  works.not_sent(work->id);
  CHECK(works.seat({7}).in_flight == 0);
  CHECK(works.seat({7}).position == 1);
  CHECK_FALSE(work->over);
  CHECK(works.in_flight() == 0);
}

TEST_CASE_METHOD(Fixture, "results of an op that nobody waits for are given back") {
  auto work = started(ipc::Kind::split);
  const auto id = work->id;
  work.reset();
  ipc::Done done;
  done.seat = {12};
  const auto aftermath = over(id, Outcome{}, std::move(done));
  CHECK(aftermath.over.empty());
  CHECK(aftermath.unwanted.size() == 1);
  CHECK(aftermath.unwanted_seats == std::vector{ipc::SeatId{12}});
  CHECK(works.seat({7}).in_flight == 0);
}

TEST_CASE_METHOD(Fixture, "a split that is waited for keeps its seat") {
  const auto work = started(ipc::Kind::split);
  ipc::Done done;
  done.seat = {12};
  CHECK(over(work->id, Outcome{}, std::move(done)).unwanted_seats.empty());
  CHECK(work->done.seat == ipc::SeatId{12});
}

TEST_CASE_METHOD(Fixture, "an op over refs has no seat, and is never too many") {
  std::vector<std::shared_ptr<WorkState>> all;
  for (int i = 0; i < 100; ++i) {
    all.push_back(work());
    all.back()->seat.reset();
    CHECK(works.start(all.back(), false, 0).place == Place::taken);
  }
  CHECK(works.in_flight() == 100);
}

TEST_CASE_METHOD(Fixture, "when the daemon is lost, all ops in flight are over, and nothing can start any more") {
  const auto first = started(), second = started();
  CHECK_FALSE(works.has_room({7}, in_flight_max));
  Works::Aftermath aftermath;
  works.lost(Error(Code::daemon_unavailable, "gone"), aftermath);
  CHECK(aftermath.over.size() == 2);
  for (const auto& work : {first, second}) {
    CHECK(work->over);
    CHECK(work->outcome->error().code() == Code::daemon_unavailable);
  }
  CHECK(works.start(work(), true, in_flight_max).place == Place::lost);
  // A thread that waits for room must notice it.
  CHECK(works.has_room({7}, 0));
}

// ---- calling back ----

TEST_CASE_METHOD(Fixture, "a callback is due once, when its work is over, and the work lives until then") {
  int called = 0;
  auto work = started();
  const auto id = work->id;
  const std::weak_ptr<WorkState> alive = work;
  Works::Callback callback = [&] { ++called; };
  REQUIRE(works.call_back(work, callback));
  work.reset();
  CHECK_FALSE(alive.expired());
  CHECK_FALSE(works.has_callbacks());
  static_cast<void>(over(id));
  CHECK(works.has_callbacks());
  for (const auto& due : works.take_callbacks()) due();
  CHECK(called == 1);
  CHECK_FALSE(works.has_callbacks());
  CHECK(alive.expired());
}

TEST_CASE_METHOD(Fixture, "nobody is called back for a work that is over already") {
  const auto work = started();
  static_cast<void>(over(work->id));
  Works::Callback callback = [] {};
  CHECK_FALSE(works.call_back(work, callback));
  CHECK(callback);
  CHECK_FALSE(works.has_callbacks());
}

}  // namespace
