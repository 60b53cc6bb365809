// A small process that lives a moment longer than `muster run`. If `muster run` is killed and can't clean up, the
// guardian kills the process groups of the ranks, grandchildren included. The parent-death signal alone would reach
// only the ranks.
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
  /// Ends the guardian, which kills the groups that it still guards.
  ~Guardian();

  void guard(pid_t group);
  /// Stops guarding the group: it is empty, and the kernel may soon give its number to another group.
  void forget(pid_t group);

 private:
  Guardian(pid_t pid, ipc::Fd orders) : pid_(pid), orders_(std::move(orders)) {}
  pid_t pid_;
  ipc::Fd orders_;
};

}  // namespace muster::cli
