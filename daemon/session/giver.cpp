#include "session/giver.hpp"

#include <muster/ipc/ring.hpp>

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

ObjectPtr object_of(const Input& input) { return std::static_pointer_cast<const Object>(input.keeper); }

/// The effort of giving one rank so many objects, and of telling it in so many bytes; see effort_of_turn.
std::size_t effort_of_giving(std::size_t objects, std::size_t told_bytes) {
  constexpr std::size_t objects_each = 16;
  constexpr std::size_t bytes_each = 4 << 10;
  return 1 + objects / objects_each + told_bytes / bytes_each;
}

}  // namespace

Result<Giver::Prepared> Giver::prepare(const RunningOp& running, Objects outputs) {
  Prepared prepared{std::list<Giving>(1), given_to(running, 0, outputs), false};
  prepared.giving.front().outputs = std::move(outputs);
  if (auto described = describe(running.op->contributions.size(), prepared.first); !described) return described.error();
  prepared.takes_turns =
      count_told(running) * effort_of_giving(prepared.first.size(), outcome_.size()) > effort_of_turn;
  return prepared;
}

void Giver::give(Prepared prepared, RunningOps::node_type over) noexcept {
  Giving& giving = prepared.giving.front();
  giving.over = std::move(over);
  if (!give_some(giving, std::move(prepared.first))) giving_.splice(giving_.end(), prepared.giving);
}

Result<void> Giver::give_again(Ticket ticket, std::size_t contributors, std::span<const ObjectPtr> objects) {
  const Client* client = works_.waiting(ticket);
  if (!client || works_.at(ticket).told) {
    works_.erase(ticket);
    return {};
  }
  if (auto described = describe(contributors, objects); !described) return described.error();
  if (auto room = store_.holds().reserve(client->payer(), objects.size()); !room) return room.error();
  works_.settle_objects(ticket, objects, outcome_);
  return {};
}

/// The client that gets this contributor's part; null if it is gone.
const Client* Giver::receiver(const RunningOp& running, std::size_t contributor) const {
  return works_.waiting(running.op->contributions[contributor].ticket);
}

/// How many are told: all ranks of a group, or the one process that calls a combine.
std::size_t Giver::count_told(const RunningOp& running) { return running.group ? running.op->contributions.size() : 1; }

std::size_t Giver::count_given(const RunningOp& running, std::size_t contributor) {
  if (running.group) return running.plan.given_to(contributor).size();
  const auto& gives = running.plan.gives;
  return std::accumulate(gives.begin(), gives.end(), std::size_t{0},
                         [](std::size_t sum, const Gives& each) { return sum + each.size(); });
}

Result<void> Giver::reserve(const RunningOp& running) {
  struct Reserved {
    Giver& giver;
    const RunningOp& running;
    std::size_t ranks = 0;
    bool kept = false;
    ~Reserved() {
      for (std::size_t i = 0; !kept && i < ranks; ++i)
        if (const Client* client = giver.receiver(running, i))
          giver.store_.holds().end_reservation(client->id, count_given(running, i));
    }
  } reserved{*this, running};
  for (; reserved.ranks < count_told(running); ++reserved.ranks) {
    const Client* client = receiver(running, reserved.ranks);
    if (!client) continue;
    auto room = store_.holds().reserve(client->payer(), count_given(running, reserved.ranks));
    if (!room) return room.error();
  }
  reserved.kept = true;
  return {};
}

/// The objects that one contributor gets. A process that calls a combine gets the objects of all ranks; if every rank
/// gets the same, it gets them once.
Objects Giver::given_to(const RunningOp& running, std::size_t contributor, std::span<const ObjectPtr> outputs) {
  const auto& contributions = running.op->contributions;
  const auto& gives = running.plan.gives;
  std::span<const Gives> given = gives;
  if (running.group) given = {&running.plan.given_to(contributor), 1};
  Objects objects;
  for (const Gives& each : given)
    for (const auto& one : each)
      objects.push_back(one.is_output ? outputs[one.index]
                                      : object_of(contributions[one.contributor].inputs[one.index]));
  return objects;
}

void Giver::go_on() noexcept {
  if (giving_.empty()) return;
  const auto first = giving_.begin();
  if (give_some(*first)) giving_.erase(first);
  else giving_.splice(giving_.end(), giving_, first);
}

/// Tells some of the ranks. True if all have been told. `described`: what the next rank gets, if outcome_ describes it
/// already.
bool Giver::give_some(Giving& giving, std::optional<Objects> described) noexcept {
  const RunningOp& over = giving.over.mapped();
  const auto& contributions = over.op->contributions;
  const std::size_t told = count_told(over);
  // Usually all ranks get the same, which is then described once.
  const bool same = over.plan.gives_all_the_same();
  for (std::size_t left = effort_of_turn; left > 0 && giving.next < told; ++giving.next) {
    const Ticket ticket = contributions[giving.next].ticket;
    try {
      if (!described) {
        Objects objects = given_to(over, giving.next, giving.outputs);
        if (describe(contributions.size(), objects)) described = std::move(objects);
      }
    } catch (const std::exception&) {
      described.reset();
    }
    if (described) works_.settle_objects(ticket, *described, outcome_);
    else works_.cut_off(ticket);
    left -= std::min(left, described ? effort_of_giving(described->size(), outcome_.size()) : 1);
    if (!same) described.reset();
  }
  return giving.next == told;
}

Result<void> Giver::describe(std::size_t contributors, std::span<const ObjectPtr> objects) {
  // The objects travel in one record. One object for each rank of the largest group fits.
  constexpr std::size_t objects_max = 2000;
  if (objects.size() > objects_max)
    return Error(Code::invalid, fmt::format("the outcome would have {} objects", objects.size()),
                 fmt::format("put them into bundles: at most {} fit in one outcome", objects_max));
  std::size_t manifest_bytes = 0;
  for (const auto& object : objects) manifest_bytes += ipc::encoded_bytes(object->manifest);
  const bool described = manifest_bytes <= ipc::record_bytes_max / 4;
  outcome_.clear();
  ipc::Done done;
  done.contributors = static_cast<std::uint32_t>(contributors);
  ipc::DoneWriter writer(done, objects.size(), outcome_);
  for (const auto& object : objects)
    writer.item(object->id, object->capability, described ? &object->manifest : nullptr);
  return {};
}

}  // namespace musterd
