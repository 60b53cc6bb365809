// What the node tells about itself: status, and lists of objects, groups and clients. It only reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/time.hpp"
#include "memory/admission.hpp"
#include "memory/ledger.hpp"
#include "memory/segment_table.hpp"
#include "session/clients.hpp"
#include "session/group_state.hpp"
#include "session/node_settings.hpp"
#include "session/op_counts.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace musterd {

class Inspect {
 public:
  /// The parts that it reads.
  struct Parts {
    const NodeSettings& settings;
    const Ledger& ledger;
    const SegmentTable& segments;
    const Store& store;
    const Admission& admission;
    const Clients& clients;
    const Works& works;
    const Groups& groups;
    const OpCounts& counts;
  };
  explicit Inspect(Parts parts) : parts_(parts) {}

  /// The reply to a request.
  using Frame = std::vector<std::byte>;
  // `only`: if set, the reply shows only what belongs to this user; else everything. A list ends at a limit of rows, or
  // at a mebibyte, and says how many rows there are in all.
  [[nodiscard]] Frame status(std::uint64_t request, std::optional<UserId> only, TimePoint started, TimePoint now) const;
  /// `limit`: the most rows; 0: as many as a list may have.
  [[nodiscard]] Frame objects(std::uint64_t request, std::optional<UserId> only, std::size_t limit,
                              TimePoint now) const;
  [[nodiscard]] Frame groups(std::uint64_t request, std::optional<UserId> only) const;
  [[nodiscard]] Frame clients(std::uint64_t request, std::optional<UserId> only, TimePoint now) const;

 private:
  /// What keeps an object, as a list shows it.
  struct Kept {
    std::vector<std::string> texts;  ///< of the holders
    Duration pinned{};               ///< for how long pickles keep it at least
  };
  [[nodiscard]] Kept kept_by(const Holders& holders, std::optional<UserId> seen_by, TimePoint now) const;
  [[nodiscard]] std::vector<Ledger::OfUser> users_seen(std::optional<UserId> seen_by) const;
  [[nodiscard]] std::vector<const GroupState*> groups_seen(std::optional<UserId> seen_by) const;
  Parts parts_;
};

}  // namespace musterd
