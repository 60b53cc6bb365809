// Looks into a node from outside: adds up from its parts what it holds, to compare that with what its ledger says, and
// tells where a seat and a work stand. For tests only; reads, never steers.
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
  /// What the ledger should say, added up from everything that is there.
  [[nodiscard]] Amounts held() const;
  /// What contradicts itself in the node's state, in words.
  [[nodiscard]] std::vector<std::string> contradictions() const;
  /// Memory came back, requests wait for some, and they were not tried again.
  [[nodiscard]] bool memory_waits_unnoticed() const;
  /// What is left, in words; nothing once everybody is gone, all jobs are done and all leases are over.
  [[nodiscard]] std::vector<std::string> left_over() const;

  struct SeatView {
    std::weak_ptr<const void> group;  ///< which one it is, comparable after its end by owner
    std::string name;
    int rank = 0;
    int world_size = 0;
    std::uint32_t epoch = 0;  ///< of the group
    bool newcomer = false;    ///< so a member of the next epoch
    std::size_t members_seated = 0;
    std::size_t newcomers_seated = 0;
  };
  /// The client must hold the seat.
  [[nodiscard]] SeatView seat(ClientId client, SeatId seat) const;
  [[nodiscard]] std::vector<SeatId> seats_of(ClientId client) const;
  [[nodiscard]] bool is_connected(ClientId client) const { return node_.clients_.find(client) != nullptr; }
  /// True if the work's op waits for the decider: then no deadline ends it.
  [[nodiscard]] bool is_undecided(ClientId client, WorkId work) const;
  /// Null if the client doesn't hold it.
  [[nodiscard]] ObjectPtr held_object(ClientId client, ObjectId object) const;
  /// Ops that gather or run.
  [[nodiscard]] std::size_t ops_in_groups() const;
  /// Null if there is none.
  [[nodiscard]] SegmentPtr segment(SegmentId segment) const { return node_.segments_.find(segment); }
  /// Of regions that results have, or that are kept for ops.
  [[nodiscard]] std::uint64_t result_bytes_used() const { return node_.results_.used_bytes(); }
  [[nodiscard]] std::uint64_t objects_held(ClientId client) const { return node_.store_.held_by(client); }

 private:
  [[nodiscard]] std::vector<GroupPtr> groups() const;
  void check_places(std::vector<std::string>& found) const;
  void check_lists(std::vector<std::string>& found) const;
  void check_reservations(std::vector<std::string>& found) const;
  static void check_orders(const Muster& muster, std::vector<std::string>& found);
  template <class Visit>
  static void for_each_slot(const Muster& muster, Visit visit) {
    for (const auto& slot : muster.ordered_) visit(slot);
    for (const auto& [match, slots] : muster.matches_)
      for (const auto& slot : slots) visit(slot);
  }
  const Node& node_;
};

}  // namespace musterd
