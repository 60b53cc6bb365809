#include "session/retries.hpp"

#include <exception>
#include <new>

namespace musterd {

bool Retries::answer(const GroupState& state, const std::string& key, const Contribution& call) noexcept try {
  const auto known = History::find(state, key, call);
  if (!known) return false;
  auto given = *known ? giver_.give_again(call.ticket, (*known)->contributors, (*known)->objects) : (*known).error();
  if (!given) works_.settle_failed(call.ticket, given.error());
  return true;
} catch (const std::exception&) {
  works_.cut_off(call.ticket);
  return true;
}

std::vector<Objects> Retries::to_remember(const RunningOp& running, std::span<const ObjectPtr> outputs) {
  std::vector<Objects> given;
  if (!running.group || !History::wants(*running.group, running.op->contributions.front().kind, running.op->key))
    return given;
  const std::size_t ranks = running.plan.gives_all_the_same() ? 1 : running.op->contributions.size();
  for (std::size_t rank = 0; rank < ranks; ++rank) given.push_back(Giver::given_to(running, rank, outputs));
  return given;
}

void Retries::remember(GroupState& state, const Op& op, std::span<const Objects> given) noexcept {
  history_.remember(state, op, given);
}

void Retries::answer_those_who_called(const GroupState& state, const std::string& key) noexcept try {
  if (!state.history.contains(key)) return;
  for (const auto& call : state.muster->take_by_key(key)) static_cast<void>(answer(state, key, call));
} catch (const std::bad_alloc&) {
  return;
}

}  // namespace musterd
