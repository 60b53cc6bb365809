// Gives the results of an op to all its ranks, and tells them. What may fail comes first; after that everybody gets the
// same outcome. A thousand ranks may get a thousand objects each, so some ranks get theirs at once, and the others in
// later turns.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include <muster/result.hpp>

#include "session/clients.hpp"
#include "session/running_op.hpp"
#include "session/works.hpp"
#include "store/store.hpp"

namespace musterd {

class Giver {
 public:
  Giver(Clients& clients, Works& works, Store& store) : clients_(clients), works_(works), store_(store) {}

  /// An op whose outcome is decided. All its ranks have room for what it gives, and some have not got it yet.
  struct Giving {
    RunningOps::node_type over;
    Objects outputs;
    std::size_t next = 0;  ///< the contribution whose rank comes next
  };
  struct Prepared {
    std::list<Giving> giving;  ///< holds one element
    Objects first;             ///< what the first rank gets
    bool takes_turns = false;  ///< too much to be given at once
  };
  /// Prepares give(). Invalid if a rank would get more objects than an outcome can name. May throw.
  [[nodiscard]] muster::Result<Prepared> prepare(const RunningOp& running, Objects outputs);
  /// Reserves room for all objects with all ranks. This must come before any rank is told, or the outcome would not be
  /// the same for all.
  [[nodiscard]] muster::Result<void> reserve(const RunningOp& running);
  /// Must follow prepare() and reserve(), with no other prepare() in between.
  void give(Prepared prepared, RunningOps::node_type over) noexcept;

  /// What an op gave goes to one more work. QuotaExceeded if its client has no room for the holds.
  [[nodiscard]] muster::Result<void> give_again(Ticket ticket, std::size_t contributors,
                                                std::span<const ObjectPtr> objects);
  /// What a contributor gets, or whoever calls a combine.
  [[nodiscard]] static Objects given_to(const RunningOp& running, std::size_t contributor,
                                        std::span<const ObjectPtr> outputs);

  [[nodiscard]] bool goes_on() const { return !giving_.empty(); }
  void go_on() noexcept;

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  [[nodiscard]] static std::size_t count_told(const RunningOp& running);
  [[nodiscard]] static std::size_t count_given(const RunningOp& running, std::size_t contributor);
  [[nodiscard]] const Client* receiver(const RunningOp& running, std::size_t contributor) const;
  /// Writes the outcome that gives these objects into outcome_. Invalid if they are too many for one record.
  [[nodiscard]] muster::Result<void> describe(std::size_t contributors, std::span<const ObjectPtr> objects);
  [[nodiscard]] bool give_some(Giving& giving, std::optional<Objects> described = std::nullopt) noexcept;

  Clients& clients_;
  Works& works_;
  Store& store_;
  std::list<Giving> giving_;
  std::vector<std::byte> outcome_;  ///< reused, to save allocations
};

}  // namespace musterd
