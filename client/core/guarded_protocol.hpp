// The protocol's state with its lock, the innermost one of a connection, and what of it may be looked at without.
#pragma once

#include <atomic>
#include <mutex>

#include "base/ordered_mutex.hpp"
#include "protocol/protocol.hpp"

namespace muster::detail {

class GuardedProtocol {
 public:
  /// Does something with the state, alone. Nothing that may end a work, a seat or a hold: that is an event, too.
  template <class Do>
  decltype(auto) locked(Do&& what) {
    const std::lock_guard lock(mutex_);
    const Looks looks(*this);
    return what(protocol_);
  }
  [[nodiscard]] OrderedMutex& mutex() { return mutex_; }

  // A look without the lock. What it says may be over by the time that it is said.
  [[nodiscard]] bool alive() const { return life() <= Life::ending; }
  [[nodiscard]] bool inherited() const { return life() == Life::inherited; }
  [[nodiscard]] bool has_releases() const { return has_releases_; }
  [[nodiscard]] bool has_seal_errors() const { return has_seal_errors_; }
  [[nodiscard]] bool has_callbacks() const { return has_callbacks_; }

  void lock_for_fork() { mutex_.lock_for_fork(); }
  void unlock_after_fork() { mutex_.unlock_after_fork(); }
  /// In a forked child, whose parent has locked it.
  void inherit() {
    const Looks looks(*this);
    protocol_.inherit();
  }

 private:
  [[nodiscard]] Life life() const { return life_; }

  /// Tells those who only look, before the lock is let go.
  class Looks {
   public:
    explicit Looks(GuardedProtocol& guarded) : guarded_(guarded) {}
    Looks(const Looks&) = delete;
    Looks& operator=(const Looks&) = delete;
    ~Looks() {
      const auto& protocol = guarded_.protocol_;
      tell(guarded_.life_, protocol.life());
      tell(guarded_.has_releases_, protocol.releases.any());
      tell(guarded_.has_seal_errors_, protocol.releases.any_seal_errors());
      tell(guarded_.has_callbacks_, protocol.works.has_callbacks());
    }

   private:
    /// Most often nothing is new, and a store costs more than a look.
    template <class T>
    static void tell(std::atomic<T>& look, T now) {
      if (look.load(std::memory_order_relaxed) != now) look = now;
    }
    GuardedProtocol& guarded_;
  };

  OrderedMutex mutex_{Rank::state};
  Protocol protocol_;
  std::atomic<Life> life_{Life::open};
  std::atomic<bool> has_releases_{false};
  std::atomic<bool> has_seal_errors_{false};
  std::atomic<bool> has_callbacks_{false};
};

}  // namespace muster::detail
