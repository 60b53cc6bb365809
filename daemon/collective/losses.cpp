// What happens when a rank is lost, or its seat is taken again?
#include <algorithm>
#include <iterator>
#include <new>

#include "collective/muster.hpp"

namespace musterd {

void Muster::lose(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left) {
  members_.refuse_ops(loss);
  withdraw(rank, loss, Members::Standing::gone, actions, left);
}

void Muster::shrink(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left) {
  withdraw(rank, loss, Members::Standing::gone, actions, left);
}

void Muster::vacate(int rank, const Loss& loss, std::vector<Action>& actions, std::size_t& left) {
  withdraw(rank, loss, Members::Standing::vacant, actions, left);
}

void Muster::withdraw(int rank, const Loss& loss, Members::Standing after, std::vector<Action>& actions,
                      std::size_t& left) {
  if (!members_.is_live(rank)) return;
  members_.withdraw(rank, loss, after);
  if (auto* reforms = ops_.reforms(); reforms && members_.is_vacant(rank))
    for (PendingOp& op : *reforms) op.awaited -= op.owes(rank, position(rank));
  try {
    catch_up(actions, left);
    catch_up_reforms(actions, left);
  } catch (const std::bad_alloc&) {
    // The ops that are left learn of the loss later.
  }
}

void Muster::catch_up(std::vector<Action>& actions, std::size_t& left) {
  while (left > 0) {
    PendingOp* op = ops_.behind();
    if (!op) break;
    const std::size_t before = actions.size();
    catch_up(*op, actions);
    ops_.retire(*op);
    pay(left, actions, before);
  }
  while (left > 0 && reforms_wait_) begin_first_reform(actions, left);
  ops_.forget_old_failures();
}

void Muster::catch_up(PendingOp& op, std::vector<Action>& actions) {
  const auto gone = members_.gone();
  if (op.losses_known == gone.size()) return;
  for (; op.losses_known < gone.size(); ++op.losses_known) go_on_without(op, gone[op.losses_known], actions);
  ops_.learned(op);
}

/// A reform that is complete now ends the epoch, so it can't wait. Ranks come to reforms in order, so no later one is
/// complete before the first. The others begin when there is time for them, usually with the end of the epoch: see
/// dissolve().
void Muster::catch_up_reforms(std::vector<Action>& actions, std::size_t& left) {
  if (!ops_.reforms()) return;
  ops_.retire_reforms();
  begin_first_reform(actions, left);
}

/// Begins the first reform if it is complete.
void Muster::begin_first_reform(std::vector<Action>& actions, std::size_t& left) {
  reforms_wait_ = false;
  auto* reforms = ops_.reforms();
  if (!reforms) return;
  const auto first = std::ranges::find_if(*reforms, [](const PendingOp& op) { return op.gathering(); });
  if (first == reforms->end()) return;
  const bool is_last = std::next(first) == reforms->end();
  reforms_wait_ = true;  // stays true if there is no memory to begin this one
  const std::size_t before = actions.size();
  catch_up(*first, actions);
  start_if_complete(*first, actions);
  reforms_wait_ = !first->gathering() && !is_last;
  ops_.retire(*first);
  pay(left, actions, before);
}

/// Starts an op that a loss has completed, and that did not begin then.
void Muster::start_if_complete(PendingOp& op, std::vector<Action>& actions) {
  if (op.gathering() && op.awaited == 0 && !op.must_fail()) start(op, actions);
}

/// Goes on without a rank that does not come back.
void Muster::go_on_without(PendingOp& op, int rank, std::vector<Action>& actions) {
  const std::size_t owed = op.owes(rank, position(rank));
  if (owed == 0) return;
  if (op.gathering()) {
    const std::string& name = op.op->name;
    const bool is_reform = op.is(Match::Of::reform);
    const auto lost = [&] { return Losses{{rank, members_.losses().at(rank)}}; };
    if (!is_reform && !members_.refuses_ops() && op.needs_in_person(rank))
      ops_.fail(op, needed_one_lost(name, lost()), actions);
    else if (op.must_fail() || (!is_reform && members_.refuses_ops()))
      ops_.fail(op, lost_while_awaited(name, lost()), actions);
    else if (op.awaited == owed) start(op, actions);
  }
  op.awaited -= owed;
}

void Muster::reoccupy(int rank) {
  if (!members_.is_vacant(rank)) return;
  members_.reoccupy(rank);
  auto* reforms = ops_.reforms();
  if (!reforms) return;
  for (PendingOp& op : *reforms) op.awaited += op.owes(rank, position(rank));
}

}  // namespace musterd
