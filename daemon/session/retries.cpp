#include "session/retries.hpp"

#include <exception>
#include <new>

#include <fmt/format.h>

#include <muster/ipc/text.hpp>

namespace musterd {

namespace {

/// For a call that history wants nothing of, or whose op was forgotten a moment ago.
muster::Error unknown(const std::string& key) {
  return {muster::Code::failed,
          fmt::format("the op with key '{}' was done, and is forgotten", muster::ipc::shortened(key, 60)),
          "give every op a key of its own"};
}

}  // namespace

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
  // An op may end after its epoch, which has taken its history with it.
  if (running.group->group.empty() || !running.group->muster->is_own(running.op->id)) return given;
  std::size_t objects = 0;
  for (const auto& gives : running.plan.gives) objects += gives.size();
  if (running.plan.gives_all_the_same()) objects *= running.op->contributions.size();
  if (objects > History::given_max) return given;
  const std::size_t ranks = running.plan.gives_all_the_same() ? 1 : running.op->contributions.size();
  for (std::size_t rank = 0; rank < ranks; ++rank) given.push_back(Giver::given_to(running, rank, outputs));
  return given;
}

void Retries::answer_those_who_called(const GroupState& state, const std::string& key) noexcept try {
  if (!state.history || !state.history->ops.contains(key)) return;
  const muster::Error forgotten = unknown(key);
  // Ranks that called several times have as many ops here.
  for (std::size_t answered = 0; answered < History::given_max;) {
    const auto calls = state.muster->take_retries(key);
    if (calls.empty()) return;
    answered += calls.size();
    for (const auto& call : calls)
      if (!answer(state, key, call)) works_.settle_failed(call.ticket, forgotten);
  }
} catch (const std::bad_alloc&) {
  return;
}

}  // namespace musterd
