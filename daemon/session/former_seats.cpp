#include "session/former_seats.hpp"

#include <new>
#include <utility>

namespace musterd {

void FormerSeats::add(const Group::Settings& group, int rank, const Loss& loss, TimePoint now) noexcept {
  // Who joins an open group later need not be anybody who could see its former members.
  if (group.open) return;
  try {
    Entry entry{group.name, group.user, rank, loss, now};
    if (entries_.size() < kept_max) return entries_.push_back(std::move(entry));
    entries_[next_] = std::move(entry);
    next_ = (next_ + 1) % kept_max;
  } catch (const std::bad_alloc&) {
    // Some message then has a hint less.
  }
}

bool FormerSeats::same(const Entry& entry, const Group::Settings& group, int rank) {
  return entry.rank == rank && !group.open && entry.user == group.user && entry.group == group.name;
}

std::optional<FormerHolder> FormerSeats::find(const Group::Settings& group, int rank, TimePoint now) const {
  const std::size_t kept = entries_.size();
  for (std::size_t age = 1; age <= kept; ++age) {
    const Entry& entry = entries_[(next_ + kept - age) % kept];
    if (same(entry, group, rank)) return FormerHolder{entry.loss, now - entry.lost_at};
  }
  return std::nullopt;
}

}  // namespace musterd
