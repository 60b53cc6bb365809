// The protocol keeps its promises, whatever this process and its daemon do in whatever order. Random steps from a seed,
// the same that a connection makes, run against a model of what must be true.
#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "core/protocol/protocol.hpp"
#include "core/protocol/seat.hpp"
#include "memory/hold.hpp"

namespace {

using muster::Code;
using muster::Error;
using muster::Outcome;
using muster::Ref;
using muster::detail::Hold;
using muster::detail::HoldKeeper;
using muster::detail::Life;
using muster::detail::Protocol;
using muster::detail::Seat;
using muster::detail::SeatState;
using muster::detail::Works;
using muster::detail::WorkState;
namespace ipc = muster::ipc;

constexpr std::uint32_t in_flight_max = 3;

/// An op as the model knows it.
struct Op {
  std::shared_ptr<WorkState> work;  ///< null once its user dropped it
  std::weak_ptr<WorkState> watched;
  ipc::WorkId id;
  ipc::SeatId seat;
  ipc::Kind kind = ipc::Kind::allreduce;
  bool over = false;
  bool sent = true;
  int callbacks_wanted = 0;
  int callbacks_made = 0;
};

class World : public HoldKeeper {
 public:
  explicit World(unsigned seed) : random_(seed) {}

  void step() {
    static constexpr void (World::*steps[])() = {
        &World::take_seat, &World::drop_seat,  &World::leave,     &World::change_group, &World::start,
        &World::start,     &World::start,      &World::forfeit,   &World::fail_to_send, &World::finish,
        &World::finish,    &World::finish,     &World::finish,    &World::repeat,       &World::drop_work,
        &World::drop_work, &World::watch,      &World::call_back, &World::make_object,  &World::drop_object,
        &World::refuse,    &World::object_end, &World::unmap,     &World::map_again,    &World::write,
        &World::write};
    (this->*steps[pick(std::size(steps))])();
    check();
  }
  void lose_daemon() {
    const Error why(Code::daemon_unavailable, "gone");
    event([&] { return protocol_.lose(why); });
    CHECK_FALSE(event([&] { return protocol_.lose(Error(Code::invalid, "another reason")); }));
    // What the daemon wrote before still counts.
    for (int i = 0; i < 5; ++i) finish();
    Works::Aftermath aftermath;
    event([&] {
      protocol_.end(aftermath);
      return true;
    });
    for (auto& op : ops_)
      if (!op.over && op.sent) {
        op.over = true;
        ended(op);
        if (const auto work = op.watched.lock()) CHECK(work->outcome->error().code() == Code::daemon_unavailable);
      }
    check();
    CHECK(protocol_.works.in_flight() == 0);
  }
  void fork_here() {
    event([&] {
      protocol_.inherit();
      return true;
    });
    CHECK_FALSE(protocol_.releases.any());
  }
  /// Everybody lets go of everything. Nothing may be kept or lost.
  void let_go_of_all() {
    call_back();
    for (auto& op : ops_) {
      op.work.reset();
      if (!op.over && op.sent) finish_op(op);
    }
    call_back();
    own_.clear();
    if (protocol_.life() == Life::inherited) return;
    room_ = 1000;
    write();
    check();
    CHECK(held_.empty());
    CHECK(given_ == told_);
    CHECK(unmapped_.empty());
    for (const auto& op : ops_) {
      CHECK(op.watched.expired());
      CHECK(op.callbacks_made == op.callbacks_wanted);
    }
  }

  // ---- HoldKeeper, as the connection does it ----
  void hold_began() override {}
  void hold_ended(ipc::ObjectId object, bool) override {
    // The lock is held while an event is handled, so this callback would wait for itself.
    CHECK_FALSE(in_event_);
    if (protocol_.life() >= Life::ended) {
      held_.erase(held_.find(object.value));
      given_.erase(given_.find(object.value));
      return;
    }
    const bool never_was = refused_.contains(object.value);
    CHECK(event([&] { return protocol_.releases.hold_ended(object); }) != never_was);
    held_.erase(held_.find(object.value));
    if (!never_was) return;
    given_.erase(given_.find(object.value));
    refused_.erase(object.value);
  }

 private:
  std::size_t pick(std::size_t below) { return random_() % below; }
  bool by_chance() { return pick(2) == 0; }
  template <class Event>
  bool event(const Event& what) {
    REQUIRE_FALSE(std::exchange(in_event_, true));
    const bool result = what();
    in_event_ = false;
    return result;
  }
  Ref hold() {
    const ipc::ObjectId object{++last_object_};
    given_.insert(object.value);
    held_.insert(object.value);
    return Ref(std::make_shared<Hold>(nullptr, *this, object, ipc::Capability{}, ipc::Manifest{}));
  }

  // ---- seats ----
  void take_seat() {
    if (seats_.size() >= 4) return;
    auto seat = std::make_shared<Seat>();
    seat->id = {by_chance() && early_.value > last_seat_ ? early_.value : last_seat_ + 1};
    last_seat_ = std::max(last_seat_, seat->id.value);
    SeatState state;
    state.epoch = 1;
    event([&] {
      protocol_.works.seat_taken(seat->id, state);
      return true;
    });
    model_[seat->id] = SeatState{};
    model_[seat->id].epoch = early_ == seat->id ? early_epoch_ : 1;
    seats_.push_back(std::move(seat));
  }
  void drop_seat() {
    if (seats_.empty()) return;
    const auto at = seats_.begin() + static_cast<std::ptrdiff_t>(pick(seats_.size()));
    const auto id = (*at)->id;
    for (const auto& op : ops_)
      if (op.work && op.seat == id) return;  // its works keep it
    CHECK(event([&] { return protocol_.works.seat_dropped(id); }) != model_[id].left);
    model_.erase(id);
    seats_.erase(at);
  }
  void leave() {
    if (seats_.empty() || pick(8) != 0) return;
    const auto id = seats_[pick(seats_.size())]->id;
    CHECK(event([&] { return protocol_.works.leave(id); }) != model_[id].left);
    model_[id].left = true;
  }
  void change_group() {
    ipc::GroupChanged change;
    change.epoch = static_cast<std::uint32_t>(1 + pick(9));
    if (seats_.empty() || pick(4) == 0) {
      change.seat = early_ = {last_seat_ + 1};
      early_epoch_ = change.epoch;
    } else {
      change.seat = seats_[pick(seats_.size())]->id;
      model_[change.seat].epoch = change.epoch;
    }
    event([&] {
      protocol_.works.group_changed(change);
      return true;
    });
  }

  // ---- ops ----
  void start() {
    const auto seat = seats_.empty() || pick(6) == 0 ? nullptr : seats_[pick(seats_.size())];
    Op op;
    op.work = std::make_shared<WorkState>();
    op.work->id = op.id = {++last_work_};
    op.work->seat = seat;
    op.work->kind = op.kind = by_chance() ? ipc::Kind::split : ipc::Kind::allreduce;
    op.watched = op.work;
    if (seat) op.seat = seat->id;
    const bool by_order = by_chance();
    Works::Taken taken;
    event([&] {
      taken = protocol_.works.start(op.work, by_order, in_flight_max);
      return true;
    });
    auto expected = Works::Place::taken;
    if (protocol_.life() >= Life::ended) expected = Works::Place::lost;
    else if (seat && model_[seat->id].left) expected = Works::Place::left;
    else if (seat && model_[seat->id].in_flight == in_flight_max) expected = Works::Place::full;
    CHECK(taken.place == expected);
    if (taken.place != Works::Place::taken) return;
    if (seat) {
      auto& model = model_[seat->id];
      CHECK(taken.epoch == model.epoch);
      ++model.in_flight;
      if (by_order) ++model.position;
    }
    ops_.push_back(std::move(op));
  }
  void forfeit() {
    if (seats_.empty()) return;
    auto& model = model_[seats_[pick(seats_.size())]->id];
    const auto id =
        std::find_if(model_.begin(), model_.end(), [&](const auto& each) { return &each.second == &model; })->first;
    const bool by_order = by_chance();
    CHECK(event([&] { return protocol_.works.forfeit(id, by_order).has_value(); }) != model.left);
    if (model.left) return;
    if (by_order) ++model.position;
  }
  Op* any_op() { return ops_.empty() ? nullptr : &ops_[pick(ops_.size())]; }
  void fail_to_send() {
    auto* op = any_op();
    if (!op || !op->work || op->callbacks_wanted > 0 || pick(4) != 0) return;
    event([&] {
      protocol_.works.not_sent(op->id);
      return true;
    });
    if (op->over || !op->sent) return;
    op->sent = false;
    ended(*op);
  }
  void ended(const Op& op) {
    if (const auto model = model_.find(op.seat); model != model_.end()) --model->second.in_flight;
  }
  void finish() {
    if (auto* op = any_op(); op && protocol_.life() < Life::ended) finish_op(*op);
  }
  /// The daemon's news of an op, which may be over already.
  void finish_op(Op& op) {
    const bool succeeds = by_chance();
    ipc::Done done;
    if (op.kind == ipc::Kind::split && succeeds) done.seat = {1000 + ++last_made_};
    const auto made = done.seat;
    muster::Result<Outcome> outcome = Outcome{};
    if (succeeds) outcome.value().refs.push_back(hold());
    else outcome = Error(Code::timeout, "too late");
    const bool was_waited_for = !op.watched.expired() && !op.over && op.sent;
    Works::Aftermath aftermath;
    event([&] {
      protocol_.works.over(op.id, std::move(outcome), std::move(done), aftermath);
      return true;
    });
    CHECK(aftermath.over.size() == (was_waited_for ? 1 : 0));
    CHECK(aftermath.unwanted.size() == (succeeds && !was_waited_for ? 1 : 0));
    CHECK(aftermath.unwanted_seats.size() == (made && !was_waited_for ? 1 : 0));
    if (was_waited_for) CHECK(op.watched.lock()->outcome->ok() == succeeds);
    if (!op.over && op.sent) ended(op);
    op.over = op.over || op.sent;
  }
  void repeat() {
    if (auto* op = any_op(); op && op->over && protocol_.life() < Life::ended) finish_op(*op);
  }
  void drop_work() {
    if (auto* op = any_op()) op->work.reset();
  }

  // ---- calling back ----
  void watch() {
    auto* op = any_op();
    if (!op || !op->work || !op->sent) return;
    Works::Callback callback = [this, id = op->id] {
      auto& called = *std::find_if(ops_.begin(), ops_.end(), [&](const Op& each) { return each.id == id; });
      CHECK(called.over);
      ++called.callbacks_made;
    };
    if (event([&] { return protocol_.works.call_back(op->work, callback); })) {
      CHECK_FALSE(op->over);
      ++op->callbacks_wanted;
    } else {
      CHECK(op->over);
    }
  }
  void call_back() {
    Works::Callbacks due;
    event([&] {
      due = protocol_.works.take_callbacks();
      return true;
    });
    for (const auto& callback : due) callback();
  }

  // ---- objects and mappings ----
  void make_object() { own_.push_back(hold()); }
  void drop_object() {
    if (own_.empty()) return;
    const auto at = own_.begin() + static_cast<std::ptrdiff_t>(pick(own_.size()));
    const Ref dropped = std::move(*at);
    own_.erase(at);
  }
  /// The daemon refuses the seal of an object that this process still holds.
  void refuse() {
    if (own_.empty() || pick(4) != 0) return;
    const auto object = own_[pick(own_.size())].hold()->object;
    event([&] {
      protocol_.releases.seal_failed(object, Error(Code::invalid, "refused"));
      return true;
    });
    refused_.insert(object.value);
    CHECK(protocol_.releases.seal_error(object));
  }
  void object_end() {
    const ipc::ObjectId object{1 + pick(last_object_ + 1)};
    if (refused_.contains(object.value)) return;  // comes only after its release
    event([&] {
      protocol_.releases.object_gone(object);
      return true;
    });
    CHECK_FALSE(protocol_.releases.seal_error(object));
  }
  void unmap() {
    const ipc::SegmentId segment{static_cast<std::uint32_t>(1 + pick(5))};
    if (!mapped_.erase(segment.value)) return;
    unmapped_.insert(segment.value);
    event([&] {
      protocol_.releases.unmapped(segment);
      return true;
    });
  }
  void map_again() {
    const ipc::SegmentId segment{static_cast<std::uint32_t>(1 + pick(5))};
    if (!mapped_.insert(segment.value).second) return;
    unmapped_.erase(segment.value);
    event([&] {
      protocol_.releases.mapped_again(segment);
      return true;
    });
  }
  /// The ring has room for a few records.
  void write() {
    auto room = room_ ? room_ : pick(3);
    event([&] {
      protocol_.releases.tell([&](ipc::SubmissionType type, std::span<const std::byte> body) {
        if (room == 0) return false;
        --room;
        if (type == ipc::SubmissionType::unmapped) {
          CHECK(unmapped_.erase(ipc::read_unmapped(body).value().segment.value) == 1);
          return true;
        }
        const auto read = ipc::read_release(body);
        for (const auto object : read.value().objects) {
          CHECK_FALSE(held_.contains(object.value));
          told_.insert(object.value);
        }
        return true;
      });
      return true;
    });
  }

  void check() {
    std::size_t in_flight = 0;
    for (const auto& op : ops_) {
      if (!op.over && op.sent) ++in_flight;
      if (const auto work = op.watched.lock()) {
        CHECK(work->over == op.over);
        CHECK(work->outcome.has_value() == op.over);
      } else {
        CHECK((op.over || op.callbacks_wanted == 0));  // an op with callbacks stays alive
      }
      CHECK(op.callbacks_made <= op.callbacks_wanted);
    }
    CHECK(protocol_.works.in_flight() == in_flight);
    for (const auto& [id, model] : model_) {
      const auto& seat = protocol_.works.seat(id);
      CHECK(seat.in_flight == model.in_flight);
      CHECK(seat.position == model.position);
      CHECK(seat.epoch == model.epoch);
      CHECK(seat.left == model.left);
    }
    CHECK(std::includes(given_.begin(), given_.end(), told_.begin(), told_.end()));
  }

  std::mt19937 random_;
  bool in_event_ = false;
  Protocol protocol_;
  std::vector<std::shared_ptr<Seat>> seats_;
  std::map<ipc::SeatId, SeatState> model_;
  std::uint32_t last_seat_ = 0, last_made_ = 0;
  ipc::SeatId early_;
  std::uint32_t early_epoch_ = 0;
  std::uint64_t last_work_ = 0, last_object_ = 0;
  std::size_t room_ = 0;
  std::multiset<std::uint64_t> given_, held_, told_;  ///< holds: given by the daemon, not ended here, released
  std::set<std::uint64_t> refused_;
  std::set<std::uint32_t> mapped_, unmapped_;  ///< unmapped_: not yet told to the daemon
  std::vector<Ref> own_;
  std::vector<Op> ops_;  ///< must be last: what it holds ends into the members above
};

constexpr int seeds = 60, steps = 400;

TEST_CASE("in every order of events each op ends once and each hold is given back once") {
  const auto seed = GENERATE(range(0, seeds));
  CAPTURE(seed);
  World world(static_cast<unsigned>(seed));
  for (int i = 0; i < steps; ++i) world.step();
  world.let_go_of_all();
}

TEST_CASE("the daemon may be lost after any event") {
  const auto seed = GENERATE(range(0, seeds));
  CAPTURE(seed);
  World world(static_cast<unsigned>(seed));
  for (int i = 0; i < 5 * seed; ++i) world.step();
  world.lose_daemon();
  for (int i = 0; i < steps / 4; ++i) world.step();
}

TEST_CASE("a process may fork after any event, and its child has nothing to tell") {
  const auto seed = GENERATE(range(0, seeds));
  CAPTURE(seed);
  World world(static_cast<unsigned>(seed));
  for (int i = 0; i < 5 * seed; ++i) world.step();
  world.fork_here();
  world.let_go_of_all();
}

}  // namespace
