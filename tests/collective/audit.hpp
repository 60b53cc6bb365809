// Watches a Muster from outside and computes independently which calls belong to one op, who is missing and what must
// have happened by now. Every event goes through it. After each event it checks everything that the architecture
// promises of outcomes.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "collective/muster.hpp"

namespace musterd::testing {

/// One call in a rank's program.
struct Call {
  muster::ipc::Kind kind = muster::ipc::Kind::barrier;
  std::string key;
  int root = 0;  ///< root, or peer
};

class Audit {
 public:
  /// `at_once` is how many ops learn of a loss when it happens, see Muster::lose(); the rest learn of it in catch_up().
  Audit(int world_size, muster::OnLoss policy, std::size_t at_once = std::size_t{1} << 30);

  void call(int rank, const Call& call);
  void lose(int rank, const std::string& how = "died");  ///< the policy decides what follows
  void replace(int rank);                                ///< only with policy wait, after lose()
  void catch_up();                                       ///< lets one op learn of a loss that it has not learned of
  void expire();  ///< moves the clock to the deadline of everything that is pending
  void end();     ///< expires the rest; then every call must have its outcome

  [[nodiscard]] bool is_live(int rank) const { return !gone_.contains(rank); }
  /// Returns the first fault, with the events that led to it; empty if all is well.
  [[nodiscard]] const std::string& complaint() const { return complaint_; }
  [[nodiscard]] std::size_t started() const { return started_; }
  [[nodiscard]] std::size_t failed() const { return failed_; }

 private:
  /// An op as computed from the calls, and what happened to it.
  struct Known {
    std::map<int, std::vector<Call>> calls;  ///< by rank; a rank that sends to itself has two
    std::vector<Ticket> tickets;
    Muster::Handle handle;  ///< set while it gathers
    std::optional<std::string> outcome;
    std::set<int> missing_at_event;
  };

  void event(std::string what) { events_ += (events_.empty() ? "" : "; ") + std::move(what); }
  void require(bool holds, const std::string& what);
  [[nodiscard]] std::string identity(int rank, const Call& call);
  [[nodiscard]] std::set<int> missing(const std::string& identity, const Known& op) const;
  [[nodiscard]] bool concerns_lost_one(const Known& op) const;
  [[nodiscard]] static bool agree(const Known& op);
  void take(std::vector<Action> actions);
  void ended(Ticket ticket, const std::string& outcome);
  void check_started(const Op& op);
  void check_failed(const FailOp& failed);
  void check_pending();
  void begin_next_epoch();

  int world_size_;
  muster::OnLoss policy_;
  std::size_t at_once_;
  Muster muster_;
  TimePoint now_;
  std::set<int> gone_;
  bool all_gone_left_ = true;
  std::map<std::string, Known> ops_;
  std::map<Ticket, std::string> identity_of_;
  std::map<Ticket, std::string> outcome_of_;
  std::map<std::pair<int, std::string>, int> counters_;
  Ticket last_ticket_ = 0;
  std::size_t started_ = 0;
  std::size_t failed_ = 0;
  bool over_ = false;  ///< a reform has begun the next epoch; later calls are not for this Muster
  std::string events_;
  std::string complaint_;
};

}  // namespace musterd::testing
