// A small process that outlives `muster run` by a moment: if that is killed and can't clean up, the guardian kills the
// process groups of the ranks, grandchildren included. The parent-death signal alone would reach only the ranks.
#pragma once

#include <sys/types.h>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

namespace muster::cli {

class Guardian {
 public:
  [[nodiscard]] static Result<Guardian> start();
  Guardian(Guardian&&) = default;
  Guardian& operator=(Guardian&&) = delete;
  /// Ends the guardian; groups that it still guards are killed.
  ~Guardian();

  void guard(pid_t group);
  /// The group is empty; its number may soon be another's.
  void forget(pid_t group);

 private:
  Guardian(pid_t pid, ipc::Fd orders) : pid_(pid), orders_(std::move(orders)) {}
  pid_t pid_;
  ipc::Fd orders_;
};

}  // namespace muster::cli
