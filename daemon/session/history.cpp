#include "session/history.hpp"

#include <algorithm>
#include <new>
#include <string>
#include <unordered_map>
#include <utility>

#include <muster/ipc/text.hpp>

#include "collective/agreement.hpp"
#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// What an object takes that would have ended, see Store::charge(): about so much, and its description.
constexpr std::uint64_t object_heap_bytes = 1 << 10;

/// What one takes in the heap, with its node in the table.
std::uint64_t heap_of(const Remembered& op, std::size_t key_bytes) {
  std::uint64_t indexes = 0;
  for (const auto& given : op.given) indexes += sizeof(given) + given.size() * sizeof(std::uint32_t);
  return sizeof(Remembered) + 2 * block_bytes + key_bytes + indexes + op.ranks.size() * sizeof(int) +
         op.objects.size() * sizeof(ObjectPtr);
}

Error another_op(const Remembered& known, const std::string& key, const Contribution& call) {
  const auto shown = [](ipc::Kind kind, muster::ReduceOp op, int root) {
    std::string words(name(kind));
    if (is_reduction(kind)) words += " of op='" + std::string(name(op)) + "'";
    if (has_root(kind)) words += " of root=" + std::to_string(root);
    return words;
  };
  return {Code::mismatch,
          "the key '" + ipc::shortened(key, 60) + "' names " + shown(known.kind, known.op, known.root) +
              ", which is done; this rank calls " + shown(call.kind, call.op, call.root),
          "give every op a key of its own while the group's history remembers it"};
}

}  // namespace

Remembered::~Remembered() {
  for (const auto& object : objects) --object->entry->holders.outcomes;
  if (!history) return;
  const auto user = history->users_.find(group->group.settings().user);
  user->second.bytes -= bytes;
  user->second.heap -= heap_kept;
  group->history_bytes -= bytes;
  RememberedOfUser::unlink();
  if (user->second.ops.empty()) history->users_.erase(user);
}

bool History::wants(const GroupState& state, ipc::Kind kind, std::string_view key) {
  return state.group.settings().history_bytes > 0 && !key.empty() && !is_pairwise(kind) && kind != ipc::Kind::split &&
         kind != ipc::Kind::reform;
}

void History::remember(GroupState& state, const Op& op, std::span<const Objects> given) noexcept try {
  const std::string& key = op.key;
  const UserId user = state.group.settings().user;
  // A key that is used again, once its first op was forgotten or while it ran.
  if (const auto known = state.history.find(key); known != state.history.end()) forget(known->second);
  const auto placed = state.history.try_emplace(key).first;
  // What is not remembered after all leaves nothing.
  struct Kept {
    RememberedOps& ops;
    RememberedOps::iterator placed;
    bool kept = false;
    ~Kept() {
      if (!kept) ops.erase(placed);
    }
  } kept{state.history, placed};
  Remembered& made = placed->second;
  const Contribution& first = op.contributions.front();
  made.kind = first.kind;
  made.op = first.op;
  made.layout = first.layout;
  made.root = first.root;
  made.group = &state;
  made.key = placed->first;
  for (const auto& contribution : op.contributions) made.ranks.push_back(contribution.rank);
  std::unordered_map<const Object*, std::uint32_t> numbers;
  for (const Objects& objects : given) {
    auto& indexes = made.given.emplace_back();
    for (const auto& object : objects) {
      const auto [number, is_new] = numbers.try_emplace(object.get(), static_cast<std::uint32_t>(numbers.size()));
      indexes.push_back(number->second);
      if (!is_new) continue;
      made.objects.push_back(object);
      ++object->entry->holders.outcomes;
      made.bytes += object->bytes;
    }
  }
  const std::uint64_t own = heap_of(made, key.size());
  made.heap_kept = own + made.objects.size() * object_heap_bytes;
  if (made.bytes > std::min(state.group.settings().history_bytes, of_user_.bytes) || made.heap_kept > of_user_.heap)
    return;
  make_room(state, made);
  auto heap = ledger_.charge({user, {}}, Resource::heap, own);
  if (!heap) return;
  made.heap = std::move(*heap);
  OfUser& of_user = users_.try_emplace(user).first->second;
  // From here on nothing fails.
  made.history = this;
  of_user.bytes += made.bytes;
  of_user.heap += made.heap_kept;
  state.history_bytes += made.bytes;
  of_user.ops.push_back(made);
  state.remembered.push_back(made);
  all_.push_back(made);
  kept.kept = true;
} catch (const std::bad_alloc&) {
  // Then nobody remembers it.
}

void History::make_room(GroupState& state, const Remembered& made) noexcept {
  const auto& settings = state.group.settings();
  while (!state.remembered.empty() && state.history_bytes + made.bytes > settings.history_bytes)
    forget(state.remembered.front());
  const auto is_full = [&](const OfUser& user) {
    return user.bytes + made.bytes > of_user_.bytes || user.heap + made.heap_kept > of_user_.heap;
  };
  // A user without remembered ops is forgotten, too.
  for (auto user = users_.find(settings.user); user != users_.end() && is_full(user->second);
       user = users_.find(settings.user))
    forget(user->second.ops.front());
}

void History::forget(Remembered& oldest) noexcept {
  auto& ops = oldest.group->history;
  ops.erase(ops.find(oldest.key));
}

bool History::drop(std::uint64_t bytes) noexcept {
  const bool any = !all_.empty();
  std::uint64_t dropped = 0;
  for (std::size_t left = effort_of_turn; left > 0 && !all_.empty() && dropped < bytes;) {
    Remembered& oldest = all_.front();
    dropped += oldest.bytes;
    left -= std::min(left, 1 + oldest.objects.size());
    forget(oldest);
  }
  return any;
}

std::optional<Result<History::Found>> History::find(const GroupState& state, const std::string& key,
                                                    const Contribution& call) {
  if (state.history.empty() || !wants(state, call.kind, key)) return std::nullopt;
  const auto found = state.history.find(key);
  if (found == state.history.end()) return std::nullopt;
  const Remembered& known = found->second;
  const bool same = known.kind == call.kind && (!is_reduction(call.kind) || known.op == call.op) &&
                    (!has_root(call.kind) || known.root == call.root) && known.layout == call.layout;
  if (!same) return another_op(known, key, call);
  const auto place = std::ranges::find(known.ranks, call.rank);
  if (place == known.ranks.end())
    return Error(Code::invalid,
                 "the op '" + ipc::shortened(key, 60) + "' is done, and rank " + std::to_string(call.rank) +
                     " had no part in it",
                 "call the next one", {call.rank});
  Result<Found> result(std::in_place);
  result->contributors = known.ranks.size();
  const std::size_t index = known.given.size() == 1 ? 0 : static_cast<std::size_t>(place - known.ranks.begin());
  for (const auto number : known.given[index]) result->objects.push_back(known.objects[number]);
  return result;
}

}  // namespace musterd
