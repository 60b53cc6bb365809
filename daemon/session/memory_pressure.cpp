#include "session/memory_pressure.hpp"

#include <algorithm>

namespace musterd {

using muster::Code;
using muster::Error;
namespace ipc = muster::ipc;

void MemoryPressure::serve(TimePoint now) {
  if (waits_in_vain()) drop_spare(now);
  if (has_news() || parts_.admission.has_untried_front()) parts_.admission.retry();
  // Memory that came back meanwhile has been tried already, as all are tried again after each success.
  seen_releases_ = releases();
}

/// Gives free segments of results back after a request was refused. A client at its own limit can't have others' taken.
bool MemoryPressure::gives_spare(const Error& error, UserId user, std::uint64_t bytes) {
  if (!is_full(error)) return false;
  const auto shortage = parts_.ledger.shortage(user, bytes);
  if (error.code() == Code::out_of_memory || shortage == Ledger::Short::daemon) return parts_.results.trim() > 0;
  return shortage == Ledger::Short::user && parts_.results.trim(user) > 0;
}

void MemoryPressure::tick(TimePoint now) {
  // The requests that waited may just have been served.
  if (!wanted_until_ || *wanted_until_ > now || parts_.admission.waiting() > 0) return;
  wanted_until_.reset();
  parts_.outside.show_memory_wanted(false);
}

std::optional<TimePoint> MemoryPressure::next_deadline() const {
  const bool drops = drop_at_ && waits_in_vain() && can_drop();
  if (!drops) return wanted_until_;
  return wanted_until_ ? std::min(*wanted_until_, *drop_at_) : *drop_at_;
}

/// While requests wait, drops what groups remember, and objects that only loaded pickles keep. It drops a part at a
/// time, as most of the memory comes back only when the object's maker has heard of its end.
void MemoryPressure::drop_spare(TimePoint now) {
  constexpr Duration pause = std::chrono::milliseconds(5);
  constexpr std::uint64_t parts = 16;
  if (drop_at_ && now < *drop_at_) return;
  drop_at_.reset();
  const bool remembered = parts_.history.drop(settings_.memory_bytes / parts);
  const bool pickled = parts_.store.pickles().drop_loaded(settings_.memory_bytes / parts);
  if (remembered || pickled) drop_at_ = now + pause;
}

Error MemoryPressure::with_holders(const Error& error, std::optional<UserId> seen_by, TimePoint now) {
  if (error.code() != Code::out_of_memory) return error;
  // The text is kept for a moment: hundreds of requests may be given up at once, and making it takes a walk over all
  // clients.
  constexpr Duration a_moment = std::chrono::milliseconds(10);
  if (holders_.empty() || now - holders_at_ > a_moment || holders_seen_by_ != seen_by) {
    holders_ = parts_.ledger.holders_of_memory([&](ClientId client) { return parts_.clients.label(client, seen_by); });
    holders_at_ = now;
    holders_seen_by_ = seen_by;
  }
  std::string message = error.message() + "; the largest holders are " + holders_;
  std::string hint = error.hint();
  constexpr std::uint64_t notable_share = 8;
  if (const auto bytes = parts_.segments.bytes_beside_objects(); bytes >= settings_.memory_bytes / notable_share) {
    message +=
        "; " + amount_text(Resource::memory, bytes) + " of the store are free pieces of segments that arrays keep";
    hint = "free the arrays for which muster ls shows large PINS; or " + hint;
  }
  if (const auto bytes = parts_.store.pickles().bytes(); bytes > 0) {
    message += "; pickled refs keep " + amount_text(Resource::memory, bytes) + " that nobody holds";
    hint = "load each pickled ref, or start the daemon with a shorter --pickle-lease (now " +
           std::to_string(std::chrono::duration_cast<std::chrono::seconds>(settings_.pickle_lease).count()) +
           " s); or " + hint;
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
