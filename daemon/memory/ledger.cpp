#include "memory/ledger.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "base/assert.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

bool is_gpu_memory(Resource resource) { return resource >= Resource::gpu_memory && resource < Resource::in_place; }
/// Of segments, wherever they are.
bool is_memory(Resource resource) { return resource == Resource::memory || is_gpu_memory(resource); }

std::string name_of(Resource resource) {
  constexpr std::array<const char*, host_resource_count> names{
      "memory",         "objects", "file descriptors", "ops in flight", "groups", "of the daemon's own memory",
      "memory mappings"};
  if (resource == Resource::in_place) return "allocations left in place";
  if (!is_gpu_memory(resource)) return names[static_cast<std::size_t>(resource)];
  const auto index = static_cast<std::size_t>(resource) - static_cast<std::size_t>(Resource::gpu_memory);
  return "on " + name(muster::Device::cuda(static_cast<std::uint8_t>(index)));
}

/// The number alone; for bytes, with their unit.
std::string number_text(Resource resource, std::uint64_t amount) {
  if (!is_memory(resource) && resource != Resource::heap) return std::to_string(amount);
  return muster::ipc::bytes_text(amount);
}

/// The option that sets the limit, as the end of a hint: ", --user-memory".
std::string flag_of(Resource resource, bool of_client) {
  if (resource == Resource::memory) return of_client ? ", --client-memory" : ", --user-memory";
  if (resource == Resource::objects) return ", --objects-max";
  if (resource == Resource::maps) return ": vm.max_map_count of its system, or --maps-max if that is given";
  return "";
}

std::string way_out(Resource resource, bool of_client) {
  switch (resource) {
    case Resource::slots: return "wait for some of them first";
    case Resource::in_place: return "free refs of what was left in place, or let put() copy: in_place=False";
    case Resource::groups: return "leave() groups that are not needed";
    case Resource::heap:
      return "keep fewer and larger objects, ops and groups at a time, or start the daemon with a larger --memory";
    default: return "free something first, or raise the daemon's limit" + flag_of(resource, of_client);
  }
}

}  // namespace

std::string amount_text(Resource resource, std::uint64_t amount) {
  const std::string number = number_text(resource, amount);
  return resource == Resource::memory ? number : fmt::format("{} {}", number, name_of(resource));
}

Charge::Charge(Charge&& other) noexcept
    : ledger_(std::exchange(other.ledger_, nullptr)),
      payer_(other.payer_),
      resource_(other.resource_),
      small_(other.small_),
      amount_(std::exchange(other.amount_, 0)),
      heap_(std::exchange(other.heap_, 0)) {}

Charge& Charge::operator=(Charge&& other) noexcept {
  if (this == &other) return *this;
  reset();
  ledger_ = std::exchange(other.ledger_, nullptr);
  payer_ = other.payer_;
  resource_ = other.resource_;
  small_ = other.small_;
  amount_ = std::exchange(other.amount_, 0);
  heap_ = std::exchange(other.heap_, 0);
  return *this;
}

void Charge::reset() {
  if (ledger_) ledger_->give_back(*this);
  ledger_ = nullptr;
  amount_ = heap_ = 0;
}

void Charge::keep_heap(std::uint64_t bytes_max) {
  if (!ledger_) return;
  const bool only_heap = resource_ == Resource::heap;
  const std::uint64_t kept = std::min(all_heap(), bytes_max);
  if (kept == 0) return reset();
  Charge rest(ledger_, payer_, resource_, only_heap ? amount_ - kept : amount_, only_heap ? 0 : heap_ - kept, small_);
  resource_ = Resource::heap;
  small_ = false;
  amount_ = kept;
  heap_ = 0;
  rest.reset();
}

Result<void> Ledger::possible(Payer payer, Resource resource, std::uint64_t amount) const {
  const bool of_client = payer.client && amount > quota_.per_client[resource];
  const std::uint64_t limit = of_client ? quota_.per_client[resource] : quota_.per_user[resource];
  if (amount > limit && limit < quota_.total[resource])
    return Error(Code::quota_exceeded,
                 fmt::format("the request asks for {}; one {} may hold {}", amount_text(resource, amount),
                             of_client ? "process" : "user", amount_text(resource, limit)),
                 "ask for less, or raise the daemon's limit" + flag_of(resource, of_client));
  const std::uint64_t kept = resource == Resource::memory ? quota_.reserve_bytes : 0;
  if (amount > quota_.total[resource] - kept)
    return Error(is_memory(resource) ? Code::out_of_memory : Code::quota_exceeded,
                 fmt::format("the request asks for {}; the daemon has {} in all{}", amount_text(resource, amount),
                             amount_text(resource, quota_.total[resource]),
                             kept ? fmt::format(", {} of them for small arrays", amount_text(resource, kept)) : ""),
                 is_gpu_memory(resource) ? "ask for less" : "start the daemon with a larger --memory");
  return {};
}

Result<void> Ledger::has_room(Payer payer, Resource resource, std::uint64_t amount) {
  if (!within_quota(payer, accounts_of(payer), resource, amount)) return refuse(payer, resource, amount);
  forget_empty(payer);
  return {};
}

Result<Charge> Ledger::charge(Payer payer, Resource resource, std::uint64_t amount, std::uint64_t heap) {
  const auto accounts = accounts_of(payer);
  const bool fits = resource != Resource::memory || leaves_the_reserve(amount);
  if (!fits || !within_quota(payer, accounts, resource, amount)) return refuse(payer, resource, amount);
  if (!within_quota(payer, accounts, Resource::heap, heap)) return refuse(payer, Resource::heap, heap);
  return take(payer, accounts, resource, amount, heap, false);
}

Result<Charge> Ledger::charge_small(Payer payer, std::uint64_t bytes, Turn turn, std::uint64_t heap) {
  const auto accounts = accounts_of(payer);
  // The reserve is used only when there is nothing else.
  const bool of_all = turn == Turn::its_own && leaves_the_reserve(bytes);
  if (!within_quota(payer, accounts, Resource::memory, bytes)) return refuse(payer, Resource::memory, bytes);
  if (!of_all && !in_the_reserve(payer, accounts, bytes)) {
    const bool has_memory = leaves_the_reserve(bytes);
    auto error = refuse(payer, Resource::memory, bytes);
    // Then it is the payer who has used up its part of the reserve.
    if (has_memory && shortage_->of == Shortage::Of::daemon) shortage_->of = Shortage::Of::user;
    return error;
  }
  if (!within_quota(payer, accounts, Resource::heap, heap)) return refuse(payer, Resource::heap, heap);
  return take(payer, accounts, Resource::memory, bytes, heap, !of_all);
}

Result<void> Ledger::resize(Charge& charge, Payer payer, std::uint64_t bytes) {
  if (bytes == 0) {
    charge.reset();
  } else if (bytes < charge.amount_) {
    const Charge less(this, payer, Resource::heap, std::exchange(charge.amount_, bytes) - bytes, 0, false);
  } else if (bytes > charge.amount_) {
    auto more = this->charge(payer, Resource::heap, bytes - charge.amount_);
    if (!more) return more.error();
    more->amount_ = bytes;
    charge.ledger_ = nullptr;  // the new charge includes the amount of the old one
    charge = std::move(*more);
  }
  return {};
}

Ledger::Accounts Ledger::accounts_of(Payer payer) {
  return {users_[payer.user], payer.client ? clients_[payer.client] : results_[payer.user]};
}

bool Ledger::leaves_the_reserve(std::uint64_t bytes) const {
  const std::uint64_t large = total_.used[Resource::memory] - total_.small_bytes;
  const std::uint64_t taken = large + std::max(quota_.reserve_bytes, total_.small_bytes);
  const std::uint64_t all = quota_.total[Resource::memory];
  return taken <= all && bytes <= all - taken;
}

/// One client or one user gets a part of the reserve only, so that one of them can't use it up.
bool Ledger::in_the_reserve(Payer payer, Accounts accounts, std::uint64_t bytes) const {
  constexpr std::uint64_t client_bytes_least = 1 << 20;  // its rings and a segment
  const std::uint64_t all = quota_.reserve_bytes;
  const std::uint64_t of_user = all / 2;
  const std::uint64_t of_client = std::max(all / 8, std::min(of_user, client_bytes_least));
  const auto has = [&](const Account& account, std::uint64_t part) { return account.small_bytes + bytes <= part; };
  return has(total_, all) && has(accounts.user, of_user) && (!payer.client || has(accounts.own, of_client));
}

bool Ledger::within_quota(Payer payer, Accounts accounts, Resource resource, std::uint64_t amount) const {
  const auto fits = [&](const Account& account, std::uint64_t limit) {
    return account.used[resource] <= limit && amount <= limit - account.used[resource];
  };
  return fits(total_, quota_.total[resource]) && fits(accounts.user, quota_.per_user[resource]) &&
         (!payer.client || fits(accounts.own, quota_.per_client[resource]));
}

Charge Ledger::take(Payer payer, Accounts accounts, Resource resource, std::uint64_t amount, std::uint64_t heap,
                    bool small) {
  // A charge of nothing has no account: its account could be empty and forgotten before the charge ends.
  if (amount == 0 && heap == 0) {
    forget_empty(payer);
    return {};
  }
  const auto add = [&](Account& account) {
    account.used[resource] += amount;
    account.used[Resource::heap] += heap;
    if (small) account.small_bytes += amount;
    if (resource == Resource::memory) account.memory_peak = std::max(account.memory_peak, account.used[resource]);
  };
  add(total_);
  add(accounts.user);
  add(accounts.own);
  return Charge(this, payer, resource, amount, heap, small);
}

Error Ledger::refuse(Payer payer, Resource resource, std::uint64_t amount) {
  const auto could = possible(payer, resource, amount);
  const auto of = could ? shortage_of(payer, resource, amount) : Shortage::Of::nobody;
  shortage_ = Shortage{of, resource};
  auto error = could ? refusal(payer, resource, amount, of) : could.error();
  forget_empty(payer);
  return error;
}

namespace {

template <class Map, class Id>
void forget_if_empty(Map& accounts, Id id) {
  const auto found = accounts.find(id);
  if (found != accounts.end() && found->second.used == Amounts{}) accounts.erase(found);
}

}  // namespace

/// Forgets accounts that are empty, as users come and go, and there may be four billion of them.
void Ledger::forget_empty(Payer payer) {
  if (payer.client) forget_if_empty(clients_, payer.client);
  else forget_if_empty(results_, payer.user);
  forget_if_empty(users_, payer.user);
}

Ledger::Shortage::Of Ledger::shortage_of(Payer payer, Resource resource, std::uint64_t amount) const {
  const auto has_no_room = [&](const Account& account, std::uint64_t limit) {
    return limit < quota_.total[resource] && amount > limit - std::min(limit, account.used[resource]);
  };
  if (payer.client && has_no_room(client(payer.client), quota_.per_client[resource])) return Shortage::Of::client;
  return has_no_room(user(payer.user), quota_.per_user[resource]) ? Shortage::Of::user : Shortage::Of::daemon;
}

Error Ledger::refusal(Payer payer, Resource resource, std::uint64_t amount, Shortage::Of of) const {
  const auto quota_error = [&](const std::string& who, const Account& account, std::uint64_t limit, bool of_client) {
    return Error(Code::quota_exceeded,
                 fmt::format("{} holds {} of at most {}; the request asks for {} more", who,
                             number_text(resource, account.used[resource]), amount_text(resource, limit),
                             number_text(resource, amount)),
                 way_out(resource, of_client));
  };
  if (of == Shortage::Of::client)
    return quota_error(fmt::format("client {}", payer.client.value), client(payer.client), quota_.per_client[resource],
                       true);
  if (of == Shortage::Of::user)
    return quota_error(fmt::format("user {}", payer.user), user(payer.user), quota_.per_user[resource], false);
  if (!is_memory(resource)) return quota_error("the daemon", total_, quota_.total[resource], false);
  const bool gpu = is_gpu_memory(resource);
  return {Code::out_of_memory,
          fmt::format("{}{} of {} are held{}, the request asks for {} more",
                      gpu ? fmt::format("the store is full {}: ", name_of(resource)) : "the store is full: ",
                      number_text(resource, total_.used[resource]), number_text(resource, quota_.total[resource]),
                      !gpu && quota_.reserve_bytes
                          ? fmt::format(", {} are for small arrays", amount_text(resource, quota_.reserve_bytes))
                          : "",
                      number_text(resource, amount)),
          "free refs and results that are not needed" +
              std::string(gpu ? ""
                              : ", or start the daemon with a larger --memory: a job needs its arrays "
                                "and results, a quarter more, and 1 MiB for each rank")};
}

void Ledger::give_back(const Charge& charge) {
  const auto subtract = [&](Account& account) {
    MUSTER_ASSERT(account.used[charge.resource_] >= charge.amount_ && account.used[Resource::heap] >= charge.heap_,
                  "nothing is given back twice");
    account.used[charge.resource_] -= charge.amount_;
    account.used[Resource::heap] -= charge.heap_;
    if (charge.small_) account.small_bytes -= charge.amount_;
  };
  subtract(total_);
  subtract(users_.at(charge.payer_.user));
  if (charge.payer_.client) subtract(clients_.at(charge.payer_.client));
  else subtract(results_.at(charge.payer_.user));
  forget_empty(charge.payer_);
  if (is_memory(charge.resource_)) ++memory_releases_;
}

Account Ledger::user(UserId user) const {
  auto found = users_.find(user);
  return found == users_.end() ? Account{} : found->second;
}

Account Ledger::client(ClientId client) const {
  auto found = clients_.find(client);
  return found == clients_.end() ? Account{} : found->second;
}

std::vector<Ledger::OfUser> Ledger::largest_users(std::size_t count) const {
  std::vector<const std::pair<const UserId, Account>*> all;
  all.reserve(users_.size());
  for (const auto& each : users_) all.push_back(&each);
  const std::size_t shown = std::min(count, all.size());
  std::ranges::partial_sort(all, all.begin() + static_cast<std::ptrdiff_t>(shown), std::less(), [](const auto* each) {
    const auto bytes = each->second.used[Resource::memory];
    return std::pair(std::numeric_limits<std::uint64_t>::max() - bytes, each->first);
  });
  std::vector<OfUser> largest;
  for (const auto* each : std::span(all).first(shown)) largest.push_back({each->first, each->second});
  return largest;
}

std::string Ledger::holders_of_memory(const std::function<std::string(ClientId)>& name_of, std::size_t count,
                                      Resource memory) const {
  struct Holder {
    std::uint64_t bytes;
    bool is_client;  ///< else the results of a user
    std::uint32_t id;
  };
  std::vector<Holder> holders;
  for (const auto& [client, account] : clients_)
    if (account.used[memory] > 0) holders.push_back({account.used[memory], true, client.value});
  for (const auto& [user, account] : results_)
    if (account.used[memory] > 0) holders.push_back({account.used[memory], false, user});
  const std::size_t shown = std::min(count, holders.size());
  std::ranges::partial_sort(holders, holders.begin() + static_cast<std::ptrdiff_t>(shown), std::greater(),
                            [](const Holder& holder) { return std::pair(holder.bytes, holder.id); });
  std::string text;
  for (std::size_t n = 0; n < shown; ++n) {
    const auto& [bytes, is_client, id] = holders[n];
    text += fmt::format("{}{}: {}", n ? ", " : "", is_client ? name_of({id}) : fmt::format("results of user {}", id),
                        amount_text(memory, bytes));
  }
  if (holders.size() > count) text += fmt::format(", {} more", holders.size() - count);
  return text.empty() ? "nobody" : text;
}

}  // namespace musterd
