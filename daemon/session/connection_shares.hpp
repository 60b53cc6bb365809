// Limits how many connections each user may have, so that no user keeps the others out. It is asked before a client can
// send anything, and before the client is charged for anything but its socket.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>

#include <fmt/format.h>

#include <muster/result.hpp>

#include "memory/ledger.hpp"

namespace musterd {

class ConnectionShares {
 public:
  /// A quarter of `connections_max` is kept for root and for `own`, the user as whom the daemon runs. Any other user
  /// has at most half, and at most an eighth without a Hello.
  ConnectionShares(std::size_t connections_max, UserId own) : max_(connections_max), own_(own) {}

  [[nodiscard]] muster::Result<void> has_room_for(UserId user) const {
    using muster::Code;
    using muster::Error;
    const auto found = users_.find(user);
    const Count of_user = found == users_.end() ? Count{} : found->second;
    const auto refuse = [&](std::size_t count, const std::string& of_whom, const char* hint) {
      return Error(Code::quota_exceeded, fmt::format("{} clients{} are connected", count, of_whom), hint);
    };
    constexpr auto raise = "raise --clients-max";
    if (all_ >= max_) return refuse(all_, "", raise);
    if (is_own(user)) return {};
    const std::string of_this = fmt::format(" of user {}", user);
    if (of_user.all >= max_ / 2) return refuse(of_user.all, of_this, raise);
    if (others_ >= max_ - max_ / 4) return refuse(others_, " of users other than the daemon's", raise);
    if (of_user.silent >= silent_max())
      return refuse(of_user.silent, of_this + " that have not said Hello", "connect with Muster's client library");
    return {};
  }

  /// If this throws, as there is no memory, the connection was not counted.
  void came(UserId user) {
    auto& of_user = users_[user];
    ++of_user.all;
    ++of_user.silent;
    ++all_;
    if (!is_own(user)) ++others_;
  }
  void greeted(UserId user) { --users_.at(user).silent; }
  void went(UserId user, bool said_hello) {
    --all_;
    if (!is_own(user)) --others_;
    const auto found = users_.find(user);
    if (!said_hello) --found->second.silent;
    if (--found->second.all == 0) users_.erase(found);
  }

 private:
  struct Count {
    std::size_t all = 0;
    std::size_t silent = 0;
  };
  [[nodiscard]] bool is_own(UserId user) const { return user == own_ || user == 0; }
  [[nodiscard]] std::size_t silent_max() const { return std::max<std::size_t>(max_ / 8, 1); }

  std::size_t max_;
  UserId own_;
  std::size_t all_ = 0;
  std::size_t others_ = 0;  ///< connections of neither the own user nor root
  std::map<UserId, Count> users_;
};

}  // namespace musterd
