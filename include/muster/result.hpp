// Expected failures are values: Result<T> holds a T or an Error with a stable code.
// Exceptions appear only where a caller asks for them, with value() on an error.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace muster {

/// Stable error codes; the values travel on the wire. Append, never renumber.
enum class Code : std::uint8_t {
  failed = 1,               ///< a failure of Muster itself; the message says more
  mismatch = 2,             ///< the ranks of one op disagree
  invalid = 3,              ///< the call or its arguments can't work
  timeout = 4,              ///< a deadline passed; `ranks` are the missing ones
  peer_lost = 5,            ///< `ranks` died or left before they contributed
  out_of_memory = 6,        ///< the store stayed full until the deadline
  quota_exceeded = 7,       ///< a limit of this client or user was reached
  object_lost = 8,          ///< the object is gone; the message says why
  group_closed = 9,         ///< this process has left the group
  daemon_unavailable = 10,  ///< there is no daemon, or it ended
  daemon_restarted = 11,    ///< the daemon is another one than before
  no_quorum = 12,           ///< this node is cut off from the majority of the cluster
  denied = 13,              ///< it belongs to another user, or not to this client
};

inline constexpr std::size_t code_count = 13;

[[nodiscard]] constexpr std::string_view name(Code code) {
  switch (code) {
    case Code::failed: return "Error";
    case Code::mismatch: return "Mismatch";
    case Code::invalid: return "Invalid";
    case Code::timeout: return "Timeout";
    case Code::peer_lost: return "PeerLost";
    case Code::out_of_memory: return "OutOfMemory";
    case Code::quota_exceeded: return "QuotaExceeded";
    case Code::object_lost: return "ObjectLost";
    case Code::group_closed: return "GroupClosed";
    case Code::daemon_unavailable: return "DaemonUnavailable";
    case Code::daemon_restarted: return "DaemonRestarted";
    case Code::no_quorum: return "NoQuorum";
    case Code::denied: return "Denied";
  }
  return "Error";
}

/// One failure: what happened, the values involved, and what to try.
class Error : public std::exception {
 public:
  Error(Code code, std::string message, std::string hint = {}, std::vector<int> ranks = {})
      : code_(code), message_(std::move(message)), hint_(std::move(hint)), ranks_(std::move(ranks)) {}

  [[nodiscard]] Code code() const noexcept { return code_; }
  [[nodiscard]] const std::string& message() const noexcept { return message_; }
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }
  /// The ranks that the error is about, in rising order; empty if it is about none.
  [[nodiscard]] const std::vector<int>& ranks() const noexcept { return ranks_; }
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }
  /// `Timeout: message (hint: ...)`, for people.
  [[nodiscard]] std::string describe() const {
    std::string text{name(code_)};
    text += ": " + message_;
    if (!hint_.empty()) text += " (hint: " + hint_ + ")";
    return text;
  }

 private:
  Code code_;
  std::string message_;
  std::string hint_;
  std::vector<int> ranks_;
};

/// A T or an Error. T may be void.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  /// Makes the T in place, for types that are not cheap to move.
  template <class... Arguments>
  explicit Result(std::in_place_t /*tag*/, Arguments&&... arguments)
      : state_(std::in_place_index<0>, std::forward<Arguments>(arguments)...) {}

  [[nodiscard]] bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  [[nodiscard]] const Error& error() const { return std::get<1>(state_); }
  /// The value; throws the Error if there is none.
  T& value() & { return throw_if_error(), std::get<0>(state_); }
  const T& value() const& { return throw_if_error(), std::get<0>(state_); }
  T&& value() && { return throw_if_error(), std::get<0>(std::move(state_)); }
  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }

 private:
  void throw_if_error() const {
    if (!ok()) throw error();
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::in_place_index<1>, std::move(error)) {}

  [[nodiscard]] bool ok() const noexcept { return error_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  [[nodiscard]] const Error& error() const { return std::get<1>(error_); }
  void value() const {
    if (!ok()) throw error();
  }

 private:
  std::variant<std::monostate, Error> error_;
};

}  // namespace muster
