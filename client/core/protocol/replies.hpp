// Requests on the socket and whose reply is whose. Pure: a reply is opaque here, and so is what was asked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>

#include <muster/ipc/socket.hpp>

namespace muster::detail {

class Replies {
 public:
  /// What a request asks for: the type of its body. 0: nothing that would have to be given back.
  using Asked = std::uint8_t;

  /// The number of a request whose reply nobody waits for.
  [[nodiscard]] std::uint64_t told() { return ++last_; }
  /// The number of a request whose reply somebody waits for, until taken() or given_up().
  [[nodiscard]] std::uint64_t asked() {
    waiting_.emplace(++last_, std::nullopt);
    return last_;
  }
  /// The reply, once it is there.
  [[nodiscard]] std::optional<ipc::Packet> taken(std::uint64_t request) {
    const auto found = waiting_.find(request);
    if (found == waiting_.end() || !found->second) return std::nullopt;
    return std::move(waiting_.extract(found).mapped());
  }
  /// Nobody waits any more. Gives the reply if it had come already: what it brought is to be given back. Else what
  /// comes late is, if `asked` is not 0.
  [[nodiscard]] std::optional<ipc::Packet> given_up(std::uint64_t request, Asked asked) {
    std::optional<ipc::Packet> late;
    if (auto waiting = waiting_.extract(request); !waiting.empty()) late = std::move(waiting.mapped());
    if (!late && asked != 0) abandoned_.emplace(request, asked);
    return late;
  }
  /// A reply came. Gives what was asked if it is to be given back; then given_back() must follow. Else the reply is
  /// taken, or nobody wants it.
  [[nodiscard]] std::optional<Asked> arrived(std::uint64_t request, ipc::Packet& packet) {
    if (const auto found = waiting_.find(request); found != waiting_.end()) {
      found->second = std::move(packet);
      return std::nullopt;
    }
    const auto found = abandoned_.find(request);
    return found == abandoned_.end() ? std::nullopt : std::optional(found->second);
  }
  void given_back(std::uint64_t request) { abandoned_.erase(request); }
  /// Whether a request for this that was given up can still be granted.
  [[nodiscard]] bool may_still_be_granted(Asked asked) const {
    return std::any_of(abandoned_.begin(), abandoned_.end(), [&](const auto& each) { return each.second == asked; });
  }

 private:
  std::uint64_t last_ = 0;
  std::unordered_map<std::uint64_t, std::optional<ipc::Packet>> waiting_;  ///< of requests that somebody waits for
  std::unordered_map<std::uint64_t, Asked> abandoned_;                     ///< still to come, or being given back
};

}  // namespace muster::detail
