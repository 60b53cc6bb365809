#include "session/memory_pressure.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "session/turn.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;

void MemoryPressure::serve(TimePoint now) {
  now_ = now;
  // What comes back has come by now. Who still finds no room gets the error of its limit.
  const auto is_over = [&](const auto& each) { return each.second <= now; };
  const bool over = !returning_until_.empty() && std::erase_if(returning_until_, is_over) > 0;
  if (waits_in_vain()) drop_spare(now);
  if (has_news() || over || parts_.admission.has_untried_front()) {
    daemon_is_short_ = false;
    parts_.admission.retry();
  }
  // Memory that came back meanwhile has been tried already, as all are tried again after each success.
  seen_releases_ = releases();
}

/// Gives back what nobody needs after a request was refused. A client or user at its own limit can't have others'
/// taken.
MemoryPressure::Spare MemoryPressure::find_spare(UserId user, std::uint64_t bytes) {
  using Of = Ledger::Shortage::Of;
  // The system may have refused, too.
  const auto shortage = parts_.ledger.take_shortage().value_or(Ledger::Shortage{});
  if (shortage.of == Of::nobody) return Spare::none;
  const bool all = shortage.of == Of::daemon;
  daemon_is_short_ |= all && shortage.resource == Resource::memory;
  // What outcomes take of the heap is there at once. A segment's books are so small that nobody waits for them.
  if (shortage.resource == Resource::heap)
    return forget(user, bytes, shortage.of) || trim(user, shortage) ? Spare::here : Spare::none;
  const bool given = give_back(user, bytes, shortage);
  if (given) {
    constexpr Duration a_moment = std::chrono::seconds(1);
    returning_until_[all ? everybody : user] = now_ + a_moment;
    return Spare::comes_back;
  }
  // What was given back a moment ago may not have come back yet.
  const auto returning = returning_until_.find(all ? everybody : user);
  return returning != returning_until_.end() && now_ < returning->second ? Spare::comes_back : Spare::none;
}

bool MemoryPressure::give_back(UserId user, std::uint64_t bytes, const Ledger::Shortage& shortage) {
  const bool all = shortage.of == Ledger::Shortage::Of::daemon;
  if (trim(user, shortage)) return true;
  // While requests wait for the daemon's memory, drop_spare() makes the groups forget.
  if (all && shortage.resource == Resource::memory) return false;
  if (!forget(user, bytes, shortage.of)) return false;
  static_cast<void>(trim(user, shortage));
  return true;
}

/// Gives free segments of results back: those of a GPU if its memory is short, else those of the host.
bool MemoryPressure::trim(UserId user, const Ledger::Shortage& shortage) {
  using Of = Ledger::Shortage::Of;
  if (shortage.of == Of::client) return false;  // results are their user's, and no client's
  const Resource memory = shortage.resource >= Resource::gpu_memory ? shortage.resource : Resource::memory;
  return (shortage.of == Of::daemon ? parts_.results.trim(memory) : parts_.results.trim(memory, user)) > 0;
}

/// Makes the groups of the user, or of all users, forget some of their outcomes.
bool MemoryPressure::forget(UserId user, std::uint64_t bytes, Ledger::Shortage::Of of) {
  const std::uint64_t some = std::max(bytes, settings_.memory_bytes / dropped_parts);
  return of == Ledger::Shortage::Of::daemon ? parts_.history.drop(some) : parts_.history.drop(user, some);
}

void MemoryPressure::tick(TimePoint now) {
  // The requests that waited may just have been served.
  if (!wanted_until_ || *wanted_until_ > now || parts_.admission.waiting() > 0) return;
  wanted_until_.reset();
  parts_.outside.show_memory_wanted(false);
}

std::optional<TimePoint> MemoryPressure::next_deadline() const {
  std::optional<TimePoint> next = wanted_until_;
  const auto consider = [&](TimePoint time) { next = next ? std::min(*next, time) : time; };
  if (!waits_in_vain()) return next;
  if (drop_at_ && can_drop()) consider(*drop_at_);
  for (const auto& [user, until] : returning_until_) consider(until);
  return next;
}

/// While requests wait, drops objects that only loaded pickles keep, and what groups remember: those of everybody where
/// the daemon has no memory left, else those of the users who wait. It drops a part at a time, as most of the memory
/// comes back only when the object's maker has heard of its end.
void MemoryPressure::drop_spare(TimePoint now) {
  constexpr Duration pause = std::chrono::milliseconds(5);
  const std::uint64_t some = settings_.memory_bytes / dropped_parts;
  if (drop_at_ && now < *drop_at_) return;
  drop_at_.reset();
  bool remembered = daemon_is_short_ && parts_.history.drop(some);
  std::size_t left = effort_of_turn;
  if (!daemon_is_short_ && !parts_.history.empty())
    parts_.admission.for_each_user([&](UserId user) { remembered |= parts_.history.drop(user, some, left); });
  const bool pickled = parts_.store.pickles().drop_loaded(some);
  if (remembered || pickled) drop_at_ = now + pause;
}

Error MemoryPressure::with_holders(const Error& error, std::optional<UserId> seen_by, TimePoint now, Resource memory) {
  if (error.code() != Code::out_of_memory) return error;
  // The text is kept for a moment: hundreds of requests may be given up at once, and making it takes a walk over all
  // clients.
  constexpr Duration a_moment = std::chrono::milliseconds(10);
  if (holders_.empty() || now - holders_at_ > a_moment || holders_seen_by_ != seen_by || holders_of_ != memory) {
    constexpr std::size_t shown = 4;
    holders_ = parts_.ledger.holders_of_memory([&](ClientId client) { return parts_.clients.label(client, seen_by); },
                                               shown, memory);
    holders_of_ = memory;
    holders_at_ = now;
    holders_seen_by_ = seen_by;
  }
  std::string message = fmt::format("{}; the largest holders are {}", error.message(), holders_);
  std::string hint = error.hint();
  if (memory != Resource::memory) return {error.code(), std::move(message), std::move(hint), error.ranks()};
  constexpr std::uint64_t notable_share = 8;
  if (const auto bytes = parts_.segments.bytes_beside_objects(); bytes >= settings_.memory_bytes / notable_share) {
    message += fmt::format("; {} of the store are free pieces of segments that arrays keep",
                           amount_text(Resource::memory, bytes));
    hint = "free the arrays for which muster ls shows large PINS; or " + hint;
  }
  if (const auto bytes = parts_.store.pickles().bytes(); bytes > 0) {
    message += fmt::format("; pickled refs keep {} that nobody holds", amount_text(Resource::memory, bytes));
    hint = fmt::format("load each pickled ref, or start the daemon with a shorter --pickle-lease (now {} s); or {}",
                       std::chrono::duration_cast<std::chrono::seconds>(settings_.pickle_lease).count(), hint);
  }
  return {error.code(), std::move(message), std::move(hint), error.ranks()};
}

/// While requests wait, and for a moment after, clients must not keep memory that they don't use. Each client sees the
/// flag whenever it frees or allocates. All are also told once, as some may sleep.
void MemoryPressure::ask_clients(TimePoint now) {
  if (!waits_in_vain()) return;
  constexpr Duration a_moment = std::chrono::milliseconds(100);
  const bool known = wanted_until_.has_value();
  wanted_until_ = now + a_moment;
  if (known) return;
  parts_.outside.show_memory_wanted(true);
  for (const auto& [id, client] : parts_.clients.all())
    if (client.greeted)
      parts_.teller.tell(id, ipc::CompletionType::memory_wanted, ipc::MemoryWanted{parts_.admission.waiting()});
}

}  // namespace musterd
