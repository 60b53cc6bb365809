// Looks into a node from outside. Adds up what its parts hold, to compare that with its ledger, and reports the state
// of seats and works. For tests only: it reads and never changes anything.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "session/node.hpp"

namespace musterd {

class NodeAudit {
 public:
  explicit NodeAudit(const Node& node) : node_(node) {}

  [[nodiscard]] Amounts charged() const { return node_.ledger_.total().used; }
  /// Returns what the ledger should say, added up from everything that exists.
  [[nodiscard]] Amounts held() const;
  /// Returns contradictions in the node's state, in words.
  [[nodiscard]] std::vector<std::string> contradictions() const;
  /// Whether memory came back and requests that wait for memory were not tried again.
  [[nodiscard]] bool memory_waits_unnoticed() const;
  /// Returns what is left, in words. Empty once all clients are gone, all jobs are done and all leases are over.
  [[nodiscard]] std::vector<std::string> left_over() const;

  struct SeatView {
    std::weak_ptr<const void> group;  ///< identifies the group; comparable by owner even after its end
    std::string name;
    int rank = 0;
    int world_size = 0;
    std::uint32_t epoch = 0;  ///< of the group
    bool newcomer = false;    ///< a newcomer is a member of the next epoch
    std::size_t members_seated = 0;
    std::size_t newcomers_seated = 0;
  };
  /// Requires that the client holds the seat.
  [[nodiscard]] SeatView seat(ClientId client, SeatId seat) const;
  [[nodiscard]] std::vector<SeatId> seats_of(ClientId client) const;
  [[nodiscard]] bool is_connected(ClientId client) const { return node_.clients_.find(client) != nullptr; }
  /// Whether the work's op waits for the decider: then no deadline ends it.
  [[nodiscard]] bool is_undecided(ClientId client, WorkId work) const;
  /// Returns null if the client doesn't hold it.
  [[nodiscard]] ObjectPtr held_object(ClientId client, ObjectId object) const;
  /// How many ops gather or run.
  [[nodiscard]] std::size_t ops_in_groups() const;
  /// Returns null if there is none.
  [[nodiscard]] SegmentPtr segment(SegmentId segment) const { return node_.segments_.find(segment); }
  /// Bytes of regions that results have, or that are kept for ops.
  [[nodiscard]] std::uint64_t result_bytes_used() const { return node_.results_.used_bytes(); }
  [[nodiscard]] std::uint64_t objects_held(ClientId client) const { return node_.store_.holds().held_by(client); }

 private:
  [[nodiscard]] std::vector<GroupPtr> groups() const;
  void check_places(std::vector<std::string>& found) const;
  void check_lists(std::vector<std::string>& found) const;
  void check_reservations(std::vector<std::string>& found) const;
  static void check_orders(const Muster& muster, std::vector<std::string>& found);
  template <class Visit>
  static void for_each_op(const Muster& muster, Visit visit) {
    for (const auto& op : muster.ops_.ordered_.all()) visit(op);
    for (const auto& [match, ops] : muster.ops_.matched_.all())
      for (const auto& op : ops) visit(op);
  }
  const Node& node_;
};

}  // namespace musterd
