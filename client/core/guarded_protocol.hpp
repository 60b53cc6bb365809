// The protocol's state with its lock, the innermost one of a connection, and flags that can be read without the lock.
#pragma once

#include <atomic>
#include <mutex>

#include "base/ordered_mutex.hpp"
#include "protocol/protocol.hpp"

namespace muster::detail {

class GuardedProtocol {
 public:
  /// Calls `what` with the state, under the lock. `what` must not end a work, a seat or a hold: that is an event
  /// itself.
  template <class Do>
  decltype(auto) locked(Do&& what) {
    const std::lock_guard lock(mutex_);
    const Looks looks(*this);
    return what(protocol_);
  }
  [[nodiscard]] OrderedMutex& mutex() { return mutex_; }

  // Reads without the lock. The answer may be out of date as soon as it is returned.
  [[nodiscard]] bool alive() const { return life() <= Life::ending; }
  [[nodiscard]] bool inherited() const { return life() == Life::inherited; }
  [[nodiscard]] bool has_releases() const { return has_releases_; }
  [[nodiscard]] bool has_seal_errors() const { return has_seal_errors_; }
  [[nodiscard]] bool has_callbacks() const { return has_callbacks_; }

  void lock_for_fork() { mutex_.lock_for_fork(); }
  void unlock_after_fork() { mutex_.unlock_after_fork(); }
  /// In a forked child; the parent has locked the state.
  void inherit() {
    const Looks looks(*this);
    protocol_.inherit();
  }

 private:
  [[nodiscard]] Life life() const { return life_; }

  /// Updates the flags for readers without the lock, before the lock is let go.
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
    /// Most often nothing has changed, and storing costs more than loading.
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
