// The ops that take long: they wait for memory, or a lane does their work. When clients have gone, each of these ops is
// looked at once, a few in each turn, as there may be thousands. One that nobody is left to be told of is dropped.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>

#include "session/clients.hpp"
#include "session/running_op.hpp"
#include "session/works.hpp"

namespace musterd {

class LongOps {
 public:
  LongOps(const Clients& clients, const Works& works) : clients_(clients), works_(works) {}

  /// From now on the op waits for memory, or is with a lane. It takes itself out by its WaitingHook.
  void add_waiting(RunningOp& op) { add(waiting_, op); }
  void add_with_lane(RunningOp& op) { add(with_lanes_, op); }

  /// Whether a client is left to be told of the outcome. `left` goes down by what it took to look.
  [[nodiscard]] bool is_wanted(const RunningOp& op, std::size_t& left) const;
  /// Whether some ops have not been looked at since a client went.
  [[nodiscard]] bool may_have_unwanted() const { return may_have_unwanted(waiting_) || may_have_unwanted(with_lanes_); }
  /// The next op that nobody wants; null if there is none, or if `left` is used up before one is found.
  [[nodiscard]] const RunningOp* next_unwanted(std::size_t& left);

 private:
  /// Those that have not been looked at since a client went come first.
  using List = boost::intrusive::list<RunningOp, boost::intrusive::base_hook<WaitingHook>,
                                      boost::intrusive::constant_time_size<false>>;
  void add(List& ops, RunningOp& op);
  [[nodiscard]] bool may_have_unwanted(const List& ops) const;
  [[nodiscard]] const RunningOp* next_unwanted(List& ops, std::size_t& left);

  const Clients& clients_;
  const Works& works_;
  List waiting_;
  List with_lanes_;
};

}  // namespace musterd
