#include "store/tombstones.hpp"

#include <algorithm>
#include <bit>

namespace musterd {

using muster::ipc::ObjectId;

Tombstones::Tombstones(std::size_t kept, std::uint64_t secret)
    : secret_(secret),
      slots_(std::bit_ceil(std::max<std::size_t>(kept, 1) * 2)),
      order_(std::max<std::size_t>(kept, 1)) {}

std::size_t Tombstones::home(ObjectId id) const {
  // Multiplicative hashing (Knuth, The Art of Computer Programming 3, 6.4) of all but the low bits: ids of one maker
  // are consecutive numbers and end at about the same time, so they share cache lines. With a factor that nobody knows
  // few ids meet, whatever they are (Dietzfelbinger and others, A Reliable Randomized Algorithm for the Closest-Pair
  // Problem, 1997).
  constexpr int low_bits = 3;
  const int bits = std::countr_zero(slots_.size());
  if (bits <= low_bits) return static_cast<std::size_t>(id.value) & (slots_.size() - 1);
  const auto block = ((id.value >> low_bits) * secret_) >> (64 - (bits - low_bits));
  return static_cast<std::size_t>(block << low_bits | (id.value & ((1 << low_bits) - 1)));
}

std::size_t Tombstones::place(ObjectId id) const {
  std::size_t slot = home(id);
  while (slots_[slot].id && slots_[slot].id != id) slot = next(slot);
  return slot;
}

void Tombstones::add(ObjectId id, End end) {
  if (Slot& known = slots_[place(id)]; known.id) {
    known.end = end;
    return;
  }
  if (order_[oldest_]) erase(order_[oldest_]);
  slots_[place(id)] = {id, end};
  order_[oldest_] = id;
  oldest_ = (oldest_ + 1) % order_.size();
}

const Tombstones::End* Tombstones::find(ObjectId id) const {
  const Slot& slot = slots_[place(id)];
  return slot.id ? &slot.end : nullptr;
}

void Tombstones::erase(ObjectId id) {
  // Later entries of the same run of slots move up, unless that would put one before its home.
  std::size_t hole = place(id);
  for (std::size_t slot = next(hole); slots_[slot].id; slot = next(slot)) {
    const std::size_t mask = slots_.size() - 1;
    const std::size_t from_home = (slot - home(slots_[slot].id)) & mask;
    if (from_home < ((slot - hole) & mask)) continue;
    slots_[hole] = slots_[slot];
    hole = slot;
  }
  slots_[hole] = {};
}

}  // namespace musterd
