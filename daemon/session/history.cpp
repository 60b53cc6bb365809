#include "session/history.hpp"

#include <algorithm>
#include <new>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/text.hpp>

#include "collective/agreement.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

namespace {

/// What one takes in the heap, with its node in the table.
std::uint64_t heap_of(const Remembered& op, std::size_t key_bytes) {
  std::uint64_t given = block_bytes + op.given.size() * sizeof(op.given[0]);
  for (const auto& indexes : op.given)
    if (indexes.size() > 1) given += block_bytes + indexes.size() * sizeof(std::uint32_t);
  return sizeof(Remembered) + 4 * block_bytes + key_bytes + given + op.ranks.size() * sizeof(int) +
         op.objects.size() * sizeof(ObjectPtr);
}

Error another_op(const Remembered& known, const std::string& key, const Contribution& call) {
  const auto shown = [](ipc::Kind kind, muster::ReduceOp op, int root) {
    std::string words(name(kind));
    if (is_reduction(kind)) words += fmt::format(" of op='{}'", name(op));
    if (has_root(kind)) words += fmt::format(" of root={}", root);
    return words;
  };
  return {Code::mismatch,
          fmt::format("the key '{}' names {}, which is done; this rank calls {}", ipc::shortened(key, 60),
                      shown(known.kind, known.op, known.root), shown(call.kind, call.op, call.root)),
          "give every op a key of its own while the group's history remembers it"};
}

}  // namespace

Remembered::~Remembered() {
  for (const auto& object : objects) --object->entry->holders.outcomes;
  if (!history) return;
  const auto user = history->users_.find(table->user);
  user->second.bytes -= bytes;
  user->second.heap -= heap_kept;
  table->bytes -= bytes;
  RememberedOfUser::unlink();
  if (user->second.ops.empty()) history->users_.erase(user);
}

void EndTable::operator()(HistoryTable* table) const noexcept { history->ended_.push_back(*table); }

History::~History() {
  ended_.clear_and_dispose([](HistoryTable* table) {
    table->ops.clear();  // they count themselves out of the table
    delete table;
  });
}

bool History::wants(const GroupState& state, ipc::Kind kind, std::string_view key) {
  return state.group.settings().history_bytes > 0 && !key.empty() && !is_pairwise(kind) && kind != ipc::Kind::split &&
         kind != ipc::Kind::reform;
}

void History::remember(GroupState& state, const Op& op, std::span<const Objects> given) noexcept try {
  if (!state.history && !make_table(state)) return;
  HistoryTable& table = *state.history;
  // A key that is used again, once its first op was forgotten or while it ran.
  if (const auto known = table.ops.find(op.key); known != table.ops.end()) forget(known->second);
  const auto placed = table.ops.try_emplace(op.key).first;
  // What is not remembered after all leaves nothing.
  struct Kept {
    RememberedOps& ops;
    RememberedOps::iterator placed;
    bool kept = false;
    ~Kept() {
      if (!kept) ops.erase(placed);
    }
  } kept{table.ops, placed};
  Remembered& made = placed->second;
  made.table = &table;
  made.key = placed->first;
  describe(made, op, given);
  if (!make_room(state, made)) return;
  auto heap = ledger_.charge({table.user, {}}, Resource::heap, heap_of(made, op.key.size()));
  if (!heap) return;
  made.heap = std::move(*heap);
  OfUser& of_user = users_.try_emplace(table.user).first->second;
  // From here on nothing fails.
  made.history = this;
  of_user.bytes += made.bytes;
  of_user.heap += made.heap_kept;
  table.bytes += made.bytes;
  of_user.ops.push_back(made);
  table.by_age.push_back(made);
  all_.push_back(made);
  kept.kept = true;
} catch (const std::bad_alloc&) {
  // Then nobody remembers it.
}

/// False if the group's user has no heap left for a table.
bool History::make_table(GroupState& state) {
  const UserId user = state.group.settings().user;
  auto heap = ledger_.charge({user, {}}, Resource::heap, sizeof(HistoryTable) + block_bytes);
  if (!heap) return false;
  state.history = HistoryTablePtr(new HistoryTable, {this});
  state.history->user = user;
  state.history->heap = std::move(*heap);
  return true;
}

/// Notes what the op was and gave, and what that keeps.
void History::describe(Remembered& made, const Op& op, std::span<const Objects> given) const {
  const Contribution& first = op.contributions.front();
  made.kind = first.kind;
  made.op = first.op;
  made.layout = first.layout;
  made.root = first.root;
  made.ranks.reserve(op.contributions.size());
  for (const auto& contribution : op.contributions) made.ranks.push_back(contribution.rank);
  made.given.reserve(given.size());
  std::unordered_map<const Object*, std::uint32_t> numbers;
  std::unordered_set<const Object*> wholes;
  for (const Objects& objects : given) {
    auto& indexes = made.given.emplace_back();
    for (const auto& object : objects) {
      const auto [number, is_new] = numbers.try_emplace(object.get(), static_cast<std::uint32_t>(numbers.size()));
      indexes.push_back(number->second);
      if (!is_new) continue;
      made.objects.push_back(object);
      ++object->entry->holders.outcomes;
      // A part keeps all bytes of its whole.
      const Object* whole = object->parent ? object->parent.get() : object.get();
      if (wholes.insert(whole).second) made.bytes += whole->bytes;
      made.bytes += object->metadata.amount();
      made.heap_kept += object->slot.all_heap() + object->metadata.all_heap();
    }
  }
  made.objects.shrink_to_fit();
  made.heap_kept += heap_of(made, op.key.size());
}

/// Forgets what is older, but not too much at once. False if there is no room after that.
bool History::make_room(const GroupState& state, const Remembered& made) noexcept {
  const std::uint64_t of_group = state.group.settings().history_bytes;
  if (made.bytes > std::min(of_group, of_user_.bytes) || made.heap_kept > of_user_.heap) return false;
  std::size_t left = effort_of_turn;
  const auto forget_oldest = [&left](auto& ops) {
    Remembered& oldest = ops.front();
    left -= std::min(left, effort_of(oldest));
    forget(oldest);
  };
  HistoryTable& table = *state.history;
  while (!table.by_age.empty() && table.bytes + made.bytes > of_group) {
    if (left == 0) return false;
    forget_oldest(table.by_age);
  }
  const auto is_full = [&](const OfUser& user) {
    return user.bytes + made.bytes > of_user_.bytes || user.heap + made.heap_kept > of_user_.heap;
  };
  // A user without remembered ops is forgotten, too.
  for (auto user = users_.find(table.user); user != users_.end() && is_full(user->second);
       user = users_.find(table.user)) {
    if (left == 0) return false;
    forget_oldest(user->second.ops);
  }
  return true;
}

void History::forget(Remembered& op) noexcept {
  auto& ops = op.table->ops;
  ops.erase(ops.find(op.key));
}

bool History::drop(std::uint64_t bytes) noexcept {
  const bool any = !all_.empty();
  std::uint64_t dropped = 0;
  for (std::size_t left = effort_of_turn; left > 0 && !all_.empty() && dropped < bytes;) {
    Remembered& oldest = all_.front();
    dropped += oldest.bytes;
    left -= std::min(left, effort_of(oldest));
    forget(oldest);
  }
  return any;
}

bool History::drop(UserId user, std::uint64_t bytes, std::size_t& left) noexcept {
  std::uint64_t dropped = 0;
  bool any = false;
  // A user without remembered ops is forgotten, too.
  for (auto found = users_.find(user); found != users_.end() && left > 0 && dropped < bytes;
       found = users_.find(user)) {
    Remembered& oldest = found->second.ops.front();
    dropped += oldest.bytes;
    left -= std::min(left, effort_of(oldest));
    forget(oldest);
    any = true;
  }
  return any;
}

void History::go_on() noexcept {
  for (std::size_t left = effort_of_turn; left > 0 && !ended_.empty();) {
    HistoryTable& first = ended_.front();
    for (; left > 0 && !first.ops.empty(); first.ops.erase(first.ops.begin()))
      left -= std::min(left, effort_of(first.ops.begin()->second));
    if (!first.ops.empty()) return;
    ended_.pop_front_and_dispose(std::default_delete<HistoryTable>());
    left -= std::min<std::size_t>(left, 1);
  }
}

std::optional<Result<History::Found>> History::find(const GroupState& state, const std::string& key,
                                                    const Contribution& call) {
  if (!state.history || !wants(state, call.kind, key)) return std::nullopt;
  const auto found = state.history->ops.find(key);
  if (found == state.history->ops.end()) return std::nullopt;
  const Remembered& known = found->second;
  const bool same = known.kind == call.kind && (!is_reduction(call.kind) || known.op == call.op) &&
                    (!has_root(call.kind) || known.root == call.root) && known.layout == call.layout;
  if (!same) return another_op(known, key, call);
  const auto place = std::ranges::find(known.ranks, call.rank);
  if (place == known.ranks.end())
    return Error(Code::invalid,
                 fmt::format("the op '{}' is done, and rank {} had no part in it", ipc::shortened(key, 60), call.rank),
                 "call the next one", {call.rank});
  Result<Found> result(std::in_place);
  result->contributors = known.ranks.size();
  const std::size_t index = known.given.size() == 1 ? 0 : static_cast<std::size_t>(place - known.ranks.begin());
  for (const auto number : known.given[index]) result->objects.push_back(known.objects[number]);
  return result;
}

}  // namespace musterd
