// The state of a connection, without socket, ring, thread, clock or lock: it takes events and returns what follows from
// them. Tests try every order of events without a daemon.
#pragma once

#include <cstdint>
#include <optional>

#include <muster/result.hpp>

#include "releases.hpp"
#include "replies.hpp"
#include "works.hpp"

namespace muster::detail {

enum class Life : std::uint8_t {
  open,
  ending,    ///< the daemon is gone, but what it wrote before is still being read
  ended,     ///< nothing can come any more
  inherited  ///< by a forked child, which must not use it
};

struct Protocol {
  Works works;
  Releases releases;
  Replies replies;

  [[nodiscard]] Life life() const { return life_; }
  [[nodiscard]] const std::optional<Error>& end_error() const { return end_error_; }

  /// The daemon is gone. Returns false if that was known.
  [[nodiscard]] bool lose(const Error& error) {
    if (life_ != Life::open) return false;
    life_ = Life::ending;
    end_error_ = error;
    return true;
  }
  /// Everything that the daemon wrote has been read, so all works in flight are over.
  void end(Works::Aftermath& aftermath) {
    if (life_ != Life::ending) return;
    life_ = Life::ended;
    works.lost(*end_error_, aftermath);
  }
  /// This process is a forked child.
  void inherit() {
    life_ = Life::inherited;
    releases.inherited();
  }

 private:
  Life life_ = Life::open;
  std::optional<Error> end_error_;
};

}  // namespace muster::detail
