#include "store/tokens.hpp"

#include <fmt/format.h>

#include <muster/ipc/text.hpp>

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// What malloc takes for a node of a tree or list beside the value.
constexpr std::uint64_t node_bytes = 4 * sizeof(void*) + block_bytes;

constexpr std::size_t name_shown_max = 60;

}  // namespace

Result<Tokens::List::iterator> Tokens::find(UserId user, std::string_view name) const {
  const auto found = open_.find({user, name});
  if (found != open_.end() && is_open(*found->second)) return found->second;
  return Error(Code::invalid,
               fmt::format("no token '{}' is open: it has ended, or nobody opened it",
                           muster::ipc::shortened(name, name_shown_max)),
               "open it first, in the process that will say when it ends");
}

Result<void> Tokens::pay(Token& token, std::size_t holds) {
  constexpr std::uint64_t own = sizeof(Token) + node_bytes + sizeof(Key) + sizeof(List::iterator) + node_bytes;
  constexpr std::uint64_t each = sizeof(ObjectId) + sizeof(Hold) + node_bytes;
  return ledger_.resize(token.charge, token.opener, own + token.name.size() + holds * each);
}

Result<void> Tokens::open(Payer opener, std::string name) {
  const auto known = open_.find({opener.user, name});
  if (known != open_.end() && is_open(*known->second))
    return Error(Code::invalid,
                 fmt::format("a token '{}' is open already", muster::ipc::shortened(name, name_shown_max)),
                 "end it first, or use another name");
  // All that may throw for lack of memory comes before anything is changed.
  List made;
  Token& token = made.emplace_back(Token{opener, std::move(name), {}, {}});
  if (auto paid = pay(token, 0); !paid) return paid.error();
  List& others = openers_[opener.client];
  if (known != open_.end()) open_.erase(known);
  open_.emplace(Key{opener.user, token.name}, made.begin());
  others.splice(others.end(), made);
  return {};
}

Result<void> Tokens::keep(UserId user, std::string_view name, const ObjectPtr& object) {
  auto found = find(user, name);
  if (!found) return found.error();
  Token& token = **found;
  if (token.holds.contains(object->id)) return {};
  StoreEntry& entry = *object->entry;
  if (auto paid = pay(token, token.holds.size() + 1); !paid) return paid.error();
  Hold& hold = token.holds.try_emplace(object->id, Holder::Token{token.name}, entry).first->second;
  entry.holders.holds.push_back(hold);
  entry.strong = object;
  if (entry.holders.pickles.runs()) pickles_.count(entry);
  return {};
}

Result<void> Tokens::end(UserId user, std::string_view name) {
  const auto found = find(user, name);
  if (!found) return found.error();
  const auto token = *found;
  open_.erase({user, token->name});
  const auto opener = openers_.find(token->opener.client);
  ended_.splice(ended_.end(), opener->second, token);
  if (opener->second.empty()) openers_.erase(opener);
  go_on();
  return {};
}

void Tokens::drop_client(ClientId opener) {
  const auto opened = openers_.find(opener);
  if (opened == openers_.end()) return;
  ended_.splice(ended_.end(), opened->second);
  openers_.erase(opened);
  go_on();
}

bool Tokens::let_go(Token& token, std::size_t& left) {
  while (!token.holds.empty()) {
    if (left == 0) return false;
    --left;
    const auto first = token.holds.begin();
    StoreEntry& entry = first->second.entry;
    entry.holders.holds.erase(entry.holders.holds.iterator_to(first->second));
    token.holds.erase(first);
    pickles_.after_hold(entry, "freed: the token that kept it ended");
  }
  return true;
}

void Tokens::go_on() {
  constexpr std::size_t at_once = 512;  // about a tenth of a millisecond
  for (std::size_t left = at_once; left > 0 && !ended_.empty();) {
    const auto token = ended_.begin();
    if (const auto open = open_.find({token->opener.user, token->name}); open != open_.end() && open->second == token)
      open_.erase(open);
    if (!let_go(*token, left)) return;
    if (left > 0) --left;
    ended_.erase(token);
  }
}

}  // namespace musterd
