#include "audit.hpp"

#include <algorithm>

#include "collective/agreement.hpp"
#include "inputs.hpp"

namespace musterd::testing {

using muster::Code;
using muster::OnLoss;
using muster::ipc::Kind;

namespace {

std::vector<int> all_ranks(int world_size) {
  std::vector<int> ranks;
  for (int rank = 0; rank < world_size; ++rank) ranks.push_back(rank);
  return ranks;
}

bool gives_input(int rank, const Call& call) {
  switch (call.kind) {
    case Kind::allreduce:
    case Kind::send: return true;
    case Kind::broadcast: return rank == call.root;
    default: return false;
  }
}

}  // namespace

Audit::Audit(int world_size, OnLoss policy, std::size_t at_once)
    : world_size_(world_size),
      policy_(policy),
      at_once_(at_once),
      muster_(world_size, all_ranks(world_size), {}),
      now_(at_ms(0)) {}

void Audit::require(bool holds, const std::string& what) {
  if (!holds && complaint_.empty()) complaint_ = what + ", after: " + events_;
}

/// Calls with the same identity belong to one op.
std::string Audit::identity(int rank, const Call& call) {
  std::string match = call.key.empty() ? "order" : "key " + call.key;
  std::string counted = match;
  if (is_pairwise(call.kind)) {
    const bool sends = call.kind == Kind::send;
    match = "pair " + std::to_string(sends ? rank : call.root) + ">" + std::to_string(sends ? call.root : rank);
    counted = match + (sends ? " send" : " recv");
  }
  if (call.kind == Kind::reform) counted = match = "reform";
  return match + " " + std::to_string(counters_[{rank, counted}]++);
}

void Audit::call(int rank, const Call& call) {
  if (over_) return;
  event(std::to_string(rank) + " " + std::string(name(call.kind)) + call.key);
  Contribution made = contribution(rank, call.kind, ++last_ticket_);
  made.key = call.key;
  made.root = call.root;
  made.deadline = now_ + std::chrono::seconds(1);
  if (gives_input(rank, call)) made.inputs.push_back(plain(floats({1})));
  const std::string id = identity(rank, call);
  Known& op = ops_[id];
  op.calls[rank].push_back(call);
  op.tickets.push_back(made.ticket);
  identity_of_[made.ticket] = id;
  std::vector<Action> actions;
  op.handle = muster_.contribute(std::move(made), now_, actions);
  take(std::move(actions));
}

void Audit::lose(int rank, const std::string& how) {
  if (over_) return;
  event(std::to_string(rank) + " " + how);
  gone_.insert(rank);
  all_gone_left_ = all_gone_left_ && how == "left";
  std::vector<Action> actions;
  std::size_t left = at_once_;
  switch (policy_) {
    case OnLoss::fail: muster_.lose(rank, {how, {}}, actions, left); break;
    case OnLoss::shrink: muster_.shrink(rank, {how, {}}, actions, left); break;
    case OnLoss::wait: muster_.vacate(rank, {how, {}}, actions, left); break;
  }
  take(std::move(actions));
}

void Audit::replace(int rank) {
  if (over_) return;
  event(std::to_string(rank) + " is replaced");
  // A reform that failed without the old holder doesn't concern the new one: its first reform matches the others' next.
  int& reforms = counters_[{rank, "reform"}];
  for (auto op = ops_.find("reform " + std::to_string(reforms));
       op != ops_.end() && op->second.outcome && missing(op->first, op->second).empty();
       op = ops_.find("reform " + std::to_string(reforms)))
    ++reforms;
  gone_.erase(rank);
  muster_.reoccupy(rank);
  take({});
}

void Audit::catch_up() {
  if (over_) return;
  event("catches up");
  std::vector<Action> actions;
  std::size_t left = 1;
  muster_.catch_up(actions, left);
  take(std::move(actions));
}

void Audit::expire() {
  if (over_) return;
  const auto deadline = muster_.next_deadline();
  if (!deadline) return;
  event("deadline");
  for (auto& [id, op] : ops_) op.missing_at_event = missing(id, op);
  now_ = std::max(now_, *deadline);
  std::vector<Action> actions;
  std::size_t plenty = std::size_t{1} << 30;
  muster_.expire(now_, actions, plenty, {});
  take(std::move(actions));
}

void Audit::end() {
  for (int rounds = 0; muster_.is_behind() && rounds < 1000; ++rounds) catch_up();
  for (int rounds = 0; muster_.next_deadline() && rounds < 100; ++rounds) expire();
  for (const auto& [id, op] : ops_) require(op.outcome.has_value(), "no outcome for " + id);
  require(outcome_of_.size() == identity_of_.size(), "a call without outcome");
  require(muster_.in_flight() == 0, "ops in flight at the end");
}

/// The ranks that may still call and have not.
std::set<int> Audit::missing(const std::string& identity, const Known& op) const {
  std::set<int> ranks;
  const Call& first = op.calls.begin()->second.front();
  if (is_pairwise(first.kind)) {
    if (op.calls.size() < 2 && op.tickets.size() < 2) ranks.insert(first.root);
  } else {
    for (int rank = 0; rank < world_size_; ++rank)
      if (!op.calls.contains(rank)) ranks.insert(rank);
  }
  const bool replaceable = policy_ == OnLoss::wait && !identity.starts_with("reform");
  if (!replaceable) std::erase_if(ranks, [&](int rank) { return gone_.contains(rank); });
  return ranks;
}

/// Whether a rank of an op of two is lost.
bool Audit::concerns_lost_one(const Known& op) const {
  const auto& [rank, calls] = *op.calls.begin();
  return gone_.contains(rank) || gone_.contains(calls.front().root);
}

bool Audit::agree(const Known& op) {
  const Call& first = op.calls.begin()->second.front();
  if (is_pairwise(first.kind)) return true;
  return std::all_of(op.calls.begin(), op.calls.end(), [&](const auto& entry) {
    const Call& call = entry.second.front();
    return call.kind == first.kind && (!has_root(call.kind) || call.root == first.root);
  });
}

void Audit::take(std::vector<Action> actions) {
  for (const Action& action : actions) {
    if (const auto* started = std::get_if<StartOp>(&action)) {
      check_started(*started->op);
      muster_.finished(started->op->id);
      ++started_;
    } else {
      check_failed(std::get<FailOp>(action));
    }
  }
  const bool reformed = std::any_of(actions.begin(), actions.end(), [](const Action& action) {
    const auto* started = std::get_if<StartOp>(&action);
    return started && started->op->contributions.front().kind == Kind::reform;
  });
  if (reformed && !over_) begin_next_epoch();
  check_pending();
}

/// Does what the session does: ops that are pending in the old epoch end.
void Audit::begin_next_epoch() {
  over_ = true;
  std::vector<Action> actions;
  muster_.abort(muster::Error(Code::group_closed, "the epoch is over", {}, {0}), actions);
  take(std::move(actions));
}

void Audit::ended(Ticket ticket, const std::string& outcome) {
  require(identity_of_.contains(ticket), "an outcome for nobody");
  require(outcome_of_.emplace(ticket, outcome).second, "a second outcome for one call");
  Known& op = ops_.at(identity_of_.at(ticket));
  if (!op.outcome) op.outcome = outcome;
  require(*op.outcome == outcome,
          "two outcomes for " + identity_of_.at(ticket) + ": " + *op.outcome + " and " + outcome);
}

void Audit::check_started(const Op& op) {
  const std::string& id = identity_of_.at(op.contributions.front().ticket);
  const Known& known = ops_.at(id);
  require(missing(id, known).empty(), id + " started before it was complete");
  require(agree(known), id + " started in disagreement");
  require(op.contributions.size() == known.tickets.size(), id + " started without some of its calls");
  require(std::is_sorted(op.contributions.begin(), op.contributions.end(),
                         [](const auto& a, const auto& b) { return a.rank < b.rank; }),
          id + " is not in rank order");
  if (policy_ != OnLoss::shrink && !id.starts_with("reform") && !id.starts_with("pair"))
    require(op.contributions.size() == static_cast<std::size_t>(world_size_), id + " started without some ranks");
  for (const Contribution& contribution : op.contributions) {
    require(identity_of_.at(contribution.ticket) == id, "calls of two ops in one");
    ended(contribution.ticket, "done");
  }
}

void Audit::check_failed(const FailOp& failed) {
  ++failed_;
  require(!failed.tickets.empty(), "a failure for nobody");
  for (const Ticket ticket : failed.tickets) {
    const std::string& id = identity_of_.at(ticket);
    const Known& op = ops_.at(id);
    const bool first = !op.outcome.has_value();
    ended(ticket, failed.error.describe());
    if (!first) continue;
    const auto& ranks = failed.error.ranks();
    require(std::is_sorted(ranks.begin(), ranks.end()) && !ranks.empty(), "an error that names no ranks");
    switch (failed.error.code()) {
      case Code::timeout:
        require(std::set(ranks.begin(), ranks.end()) == op.missing_at_event, "a timeout that names the wrong ranks");
        break;
      case Code::mismatch: require(!agree(op), "a mismatch in agreement"); break;
      case Code::peer_lost:
        require(std::all_of(ranks.begin(), ranks.end(), [&](int rank) { return gone_.contains(rank); }),
                "PeerLost names a live rank");
        if (id.starts_with("pair") && all_gone_left_)
          require(concerns_lost_one(op), id + " needs no rank that is lost");
        break;
      case Code::group_closed: require(over_, "an op that was aborted for nothing"); break;
      default: require(false, "an outcome that nothing here leads to: " + failed.error.describe());
    }
  }
}

void Audit::check_pending() {
  // Until the ops have learned of all losses, some pending ones are bound to fail.
  if (muster_.is_behind()) return;
  std::size_t pending = 0;
  for (const auto& [id, op] : ops_) {
    if (op.outcome) continue;
    ++pending;
    const auto missing_now = missing(id, op);
    require(!missing_now.empty(), id + " is complete and did not start");
    require(agree(op), id + " is in disagreement and did not fail");
    const auto told = muster_.missing(op.handle);
    require(std::set(told.begin(), told.end()) == missing_now, "missing() is wrong about " + id);
    if (policy_ == OnLoss::fail && !id.starts_with("reform"))
      for (int rank : gone_) require(op.calls.contains(rank) || id.starts_with("pair"), id + " waits for a lost rank");
    for (int rank : missing_now) {
      const auto owed = muster_.owed(rank);
      require(!owed.empty(), "owed() forgets " + id);
      std::size_t bytes = 0;
      for (const auto& each : owed) bytes += 48 + each.key.size();
      require(muster_.owed_bytes(rank) == bytes, "owed_bytes() is wrong");
    }
  }
  require(muster_.in_flight() == pending, "in_flight() is wrong");
  require(muster_.lost() == gone_, "lost() is wrong");
  require(muster_.next_deadline().has_value() == (pending > 0), "next_deadline() is wrong");
}

}  // namespace musterd::testing
