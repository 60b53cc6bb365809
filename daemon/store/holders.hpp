// Who keeps an object. Each kind of holder is one alternative of Holder::By, so code that shows holders has to handle
// all of them. Ops and parts of an object keep it, too, but are no holders: each has an ObjectPtr for as long as it is
// there.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include <muster/ipc/ids.hpp>

#include "base/time.hpp"

namespace musterd {

struct StoreEntry;

/// One holder of an object.
struct Holder {
  struct Client {
    muster::ipc::ClientId id;
  };
  /// The heir of a forked child.
  struct LifeLine {
    muster::ipc::ClientId id;
  };
  struct PickleLease {};
  struct History {};
  /// A name under which another system keeps the object.
  struct Token {
    std::string_view name;  ///< the token's own; see Tokens
  };
  using By = std::variant<Client, LifeLine, PickleLease, History, Token>;

  By by;
  std::uint64_t count = 1;  ///< of a client: its holds. Of histories: the outcomes that have the object
  Duration left{};          ///< of a pickle lease
};

using HoldHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfHold>,
                                                  boost::intrusive::link_mode<boost::intrusive::normal_link>>;

/// The holds that a client, an heir of one, or a token has on an object. The object's entry lists them, and each client
/// and token finds its own by the object's id.
struct Hold : HoldHook {
  Hold(muster::ipc::ClientId client, StoreEntry& of, std::uint64_t forks)
      : by(Holder::Client{client}), entry(of), since(forks) {}
  Hold(Holder::Token token, StoreEntry& of) : by(token), entry(of), count(1) {}
  Holder::By by;  ///< a client, a life line or a token
  StoreEntry& entry;
  std::uint64_t count = 0;
  std::uint64_t since = 0;  ///< of a client: how often it had forked when the hold began
};

/// For how long pickled refs keep an object.
struct PickleLease {
  TimePoint until{};
  std::uint32_t not_loaded = 0;  ///< about how many pickles nobody has loaded yet: a pickle may be loaded twice
  std::uint64_t bytes = 0;       ///< the object's, while nothing but pickles keeps it

  [[nodiscard]] bool runs() const { return until != TimePoint{}; }
};

/// All holders of one object.
struct Holders {
  /// In the order in which they began. An object may have thousands, so nothing walks over them all.
  boost::intrusive::list<Hold, boost::intrusive::base_hook<HoldHook>> holds;
  PickleLease pickles;
  std::uint32_t outcomes = 0;  ///< in groups' histories. Each has an ObjectPtr, so the store needn't keep the object

  /// Whether the store has to keep the object for one of them.
  [[nodiscard]] bool need_store() const { return !holds.empty() || pickles.runs(); }
  /// The first holds, and all that is no hold, in the order of Holder::By.
  [[nodiscard]] std::vector<Holder> first(std::size_t holds_max, TimePoint now) const;
};

}  // namespace musterd
