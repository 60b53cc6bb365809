// What happens at a deadline, and when an epoch ends?
#include <algorithm>
#include <iterator>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/heap_reserve.hpp"
#include "collective/muster.hpp"

namespace musterd {

using muster::Error;

namespace {

/// What is known of the first few of these ranks.
std::map<int, Whereabouts> whereabouts_of(std::span<const int> absent, const PendingOps& ops,
                                          const Muster::Locate& locate) {
  constexpr std::size_t located_max = 2;
  std::map<int, Whereabouts> known;
  if (!locate) return known;
  for (const int rank : absent.first(std::min(absent.size(), located_max))) {
    auto whereabouts = locate(rank);
    whereabouts.waits_in = ops.gathering().where_it_waits(rank, ops.ordered().position(rank));
    known.emplace(rank, std::move(whereabouts));
  }
  return known;
}

/// The error of an op whose deadline has passed.
Error late(const PendingOp& op, const PendingOps& ops, const Members& members, TimePoint now,
           const Muster::Locate& locate) {
  const auto absent = ops.missing(op);
  std::vector<int> vacant;
  std::ranges::copy_if(absent, std::back_inserter(vacant), [&](int rank) { return members.is_vacant(rank); });
  if (!vacant.empty()) return not_replaced(op.op->name, vacant, members.losses());
  const auto known = whereabouts_of(absent, ops, locate);
  if (op.is(Match::Of::pair)) return peer_did_not_come(op.pair_call(), now - op.since, known);
  std::vector<int> present;
  for (const Contribution& contribution : op.op->contributions) present.push_back(contribution.rank);
  std::sort(present.begin(), present.end());
  return deadline_passed(op.op->name, absent, present, now - op.since, known);
}

}  // namespace

void Muster::expire(TimePoint now, std::vector<Action>& actions, std::size_t& left, const Locate& locate) {
  while (left > 0) {
    PendingOp* op = ops_.gathering().next();
    if (!op || op->deadline > now) break;
    const std::size_t before = actions.size();
    catch_up(*op, actions);
    if (op->gathering()) ops_.fail(*op, op->must_fail() ? no_heap() : late(*op, ops_, members_, now, locate), actions);
    ops_.retire(*op);
    pay(left, actions, before);
  }
  ops_.forget_old_failures();
}

void Muster::abort(const Error& error, std::vector<Action>& actions) {
  while (PendingOp* op = ops_.gathering().next()) ops_.fail(*op, error, actions);
  ops_.forget_old_failures();
}

void Muster::dissolve(const Error& error, std::vector<Action>& actions, std::size_t& left) {
  for (; left > 0 && !codes_.empty(); --left) codes_.forget_first();
  while (left > 0 && !ops_.empty()) {
    PendingOp& op = ops_.oldest();
    const std::size_t before = actions.size();
    catch_up(op, actions);
    start_if_complete(op, actions);
    if (op.gathering()) ops_.fail(op, error, actions);
    ops_.drop_oldest();
    pay(left, actions, before);
  }
}

}  // namespace musterd
