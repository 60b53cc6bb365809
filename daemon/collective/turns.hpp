// Whose turn it is on the lanes. The process that has had the fewest bytes goes next. So two processes that always have
// work differ by one chunk at most. It does not matter how many connections each has, how much it queues, or how large
// its chunks are. (P. Goyal, H. Vin, H. Cheng: Start-time Fair Queueing, 1996.)
#pragma once

#include <compare>
#include <cstdint>
#include <list>
#include <map>
#include <utility>

#include <muster/ipc/ids.hpp>

#include "base/assert.hpp"

namespace musterd {

/// Who takes turns: a process, with all of its connections.
struct Process {
  std::uint32_t user = 0;
  std::int32_t pid = 0;          ///< 0: the daemon can't see it, and takes each of its connections for a process
  muster::ipc::ClientId client;  ///< that connection if pid is 0; otherwise none
  auto operator<=>(const Process&) const = default;
};

/// Items of many processes. Those of one process go in the order in which they came, except that small ones pass large
/// ones.
template <class Item>
class Turns {
 public:
  enum class Size : std::uint8_t { small, large };

  /// Names an item that is here.
  struct Handle {
    Process process;
    Size size = Size::small;
    typename std::list<Item>::iterator item{};
  };
  /// If this throws, as there is no memory, the item was not added.
  Handle add(const Process& process, Size size, Item item) {
    std::list<Item> added;
    added.push_back(std::move(item));
    const Handle handle{process, size, added.begin()};
    if (const auto place = places_.find(process); place != places_.end()) {
      auto& items = place->second->second.of(size);
      items.splice(items.end(), added);
      return handle;
    }
    Queue queue{process, {}, {}, 0};
    queue.of(size) = std::move(added);
    // A newcomer begins with the same amount as the next process, and behind it. So a process gains nothing by having
    // been away.
    const std::uint64_t served = queues_.empty() ? 0 : queues_.begin()->first.served;
    const auto queued = queues_.emplace(Place{served, ++last_turn_}, std::move(queue)).first;
    try {
      places_.emplace(process, queued);
    } catch (...) {
      queues_.erase(queued);
      throw;
    }
    return handle;
  }
  /// Takes an item out before its turn.
  void remove(const Handle& handle) {
    places_.at(handle.process)->second.of(handle.size).erase(handle.item);
    forget_idle();
  }

  [[nodiscard]] bool empty() const { return queues_.empty(); }

  /// The item whose turn it is.
  [[nodiscard]] Item& front() {
    MUSTER_ASSERT(!empty(), "it is somebody's turn");
    return queues_.begin()->second.next().front();
  }

  enum class Rest : std::uint8_t { more, nothing };
  /// The front item has had `bytes`. It goes if it has nothing left to do.
  void served(std::uint64_t bytes, Rest rest) {
    auto turn = queues_.extract(queues_.begin());
    Queue& queue = turn.mapped();
    auto& items = queue.next();
    queue.small_in_a_row = &items == &queue.small ? queue.small_in_a_row + 1 : 0;
    if (rest == Rest::nothing) items.pop_front();
    turn.key() = {turn.key().served + bytes, ++last_turn_};
    const Process process = queue.process;
    places_[process] = queues_.insert(std::move(turn)).position;
    forget_idle();
  }

 private:
  /// How many small items may pass a large one before that has its turn.
  static constexpr unsigned small_in_a_row_max = 8;

  struct Queue {
    Process process;
    std::list<Item> small;
    std::list<Item> large;
    unsigned small_in_a_row = 0;

    [[nodiscard]] std::list<Item>& of(Size size) { return size == Size::small ? small : large; }
    [[nodiscard]] bool idle() const { return small.empty() && large.empty(); }
    [[nodiscard]] std::list<Item>& next() {
      const bool is_small = !small.empty() && (large.empty() || small_in_a_row < small_in_a_row_max);
      return is_small ? small : large;
    }
  };
  /// Among equals it is the turn of the process that has waited longest.
  struct Place {
    std::uint64_t served = 0;
    std::uint64_t turn = 0;
    auto operator<=>(const Place&) const = default;
  };

  /// Forgets a process without items when its turn comes. If it comes back before that, what it has had still counts.
  void forget_idle() {
    while (!queues_.empty() && queues_.begin()->second.idle()) {
      places_.erase(queues_.begin()->second.process);
      queues_.erase(queues_.begin());
    }
  }

  std::map<Place, Queue> queues_;  ///< the process whose turn it is comes first, and has items
  std::map<Process, typename std::map<Place, Queue>::iterator> places_;
  std::uint64_t last_turn_ = 0;
};

}  // namespace musterd
