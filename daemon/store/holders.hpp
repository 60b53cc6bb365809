// Who keeps an object. Each kind of holder is one alternative of Holder::By, so whoever shows holders has to handle all
// of them. Ops and parts of an object keep it, too, but are no holders: each has an ObjectPtr for as long as it is
// there.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
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
  // A token whose end another system reports, such as a Ray object id, will be one more alternative here. It will have
  // a Hold, and a class beside Holds and Pickles that finds the Hold by the token's name.
  using By = std::variant<Client, LifeLine, PickleLease, History>;

  By by;
  std::uint64_t count = 1;  ///< of a client: its holds. Of histories: the outcomes that have the object
  Duration left{};          ///< of a pickle lease
};

using HoldHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfHold>,
                                                  boost::intrusive::link_mode<boost::intrusive::normal_link>>;

/// The holds that a client, or an heir of one, has on an object. The object's entry lists them, and the client finds
/// its own by the object's id.
struct Hold : HoldHook {
  Hold(muster::ipc::ClientId client, StoreEntry& of, std::uint64_t forks)
      : by(Holder::Client{client}), entry(of), since(forks) {}
  Holder::By by;  ///< a client or a life line
  StoreEntry& entry;
  std::uint64_t count = 0;
  std::uint64_t since;  ///< how often the client had forked when the hold began
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
