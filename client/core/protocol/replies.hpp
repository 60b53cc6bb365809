// Requests on the socket, and which reply belongs to which request. Pure: it does not look into requests and replies.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>

#include <muster/ipc/socket.hpp>

namespace muster::detail {

class Replies {
 public:
  /// What a request asks for: the type of its body. 0 if the reply brings nothing that has to be given back.
  using Asked = std::uint8_t;
  /// Returns the number for a request whose reply nobody waits for.
  [[nodiscard]] std::uint64_t told() { return ++last_; }
  /// Returns the number for a request whose reply somebody waits for, until taken() or given_up().
  [[nodiscard]] std::uint64_t asked() {
    waiting_.try_emplace(++last_);
    return last_;
  }
  /// Call it before sending the request. Returns false if so many requests are unanswered that it has to wait. Requests
  /// numbered by told() don't count: the daemon answers them at once.
  [[nodiscard]] bool begins(std::uint64_t request, std::size_t unanswered_max) {
    if (unanswered_ >= unanswered_max) return false;
    waiting_.at(request).begun = true;
    ++unanswered_;
    return true;
  }
  /// Returns the reply once it is there.
  [[nodiscard]] std::optional<ipc::Packet> taken(std::uint64_t request) {
    const auto found = waiting_.find(request);
    if (found == waiting_.end() || !found->second.reply) return std::nullopt;
    return std::move(waiting_.extract(found).mapped().reply);
  }
  /// Nobody waits for the reply any more. If it has come already, returns it: the caller must give back what it
  /// brought. Otherwise a late reply has to be given back if `asked` is not 0. With 0 no reply will come.
  [[nodiscard]] std::optional<ipc::Packet> given_up(std::uint64_t request, Asked asked) {
    auto waiting = waiting_.extract(request);
    if (!waiting.empty() && waiting.mapped().reply) return std::move(waiting.mapped().reply);
    if (asked != 0) abandoned_.emplace(request, asked);
    else if (!waiting.empty() && waiting.mapped().begun) --unanswered_;
    return std::nullopt;
  }
  /// A reply came. If it was given up, returns what the request asked for: the caller must give back what the reply
  /// brought, and then call given_back(). Otherwise keeps the reply for taken(), or drops it if nobody wants it.
  [[nodiscard]] std::optional<Asked> arrived(std::uint64_t request, ipc::Packet& packet) {
    if (const auto found = waiting_.find(request); found != waiting_.end()) {
      found->second.reply = std::move(packet);
      if (found->second.begun) --unanswered_;
      return std::nullopt;
    }
    const auto found = abandoned_.find(request);
    if (found == abandoned_.end()) return std::nullopt;
    --unanswered_;
    return found->second;
  }
  void given_back(std::uint64_t request) { abandoned_.erase(request); }
  /// Whether the daemon can still grant an abandoned request of this kind.
  [[nodiscard]] bool may_still_be_granted(Asked asked) const {
    return std::any_of(abandoned_.begin(), abandoned_.end(), [&](const auto& each) { return each.second == asked; });
  }

 private:
  struct Waiting {
    std::optional<ipc::Packet> reply = {};
    bool begun = false;
  };
  std::uint64_t last_ = 0;
  std::size_t unanswered_ = 0;                          ///< counts requests that began
  std::unordered_map<std::uint64_t, Waiting> waiting_;  ///< requests that somebody waits for
  std::unordered_map<std::uint64_t, Asked> abandoned_;  ///< their replies are still to come, or are being given back
};

}  // namespace muster::detail
