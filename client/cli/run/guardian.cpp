// Orders come through a pipe: when the process at the other end dies in any way, the orders end.
#include "guardian.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <vector>

namespace muster::cli {

namespace {

/// A positive number: guard this group. A negative one: forget it.
using Order = std::int32_t;

[[noreturn]] void keep_watch(int orders) {
  ::setsid();
  sigset_t all;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  ::prctl(PR_SET_NAME, "muster-guardian");
  // Closes inherited descriptors: a pipe's reader must see its end as soon as the other writers have closed it.
  if (orders > 0) ::close_range(0, static_cast<unsigned>(orders) - 1, 0);
  ::close_range(static_cast<unsigned>(orders) + 1, ~0U, 0);

  std::vector<pid_t> groups;
  Order order = 0;
  while (::read(orders, &order, sizeof order) == sizeof order) {
    if (order > 0) groups.push_back(order);
    else groups.erase(std::remove(groups.begin(), groups.end(), -order), groups.end());
  }
  for (const pid_t group : groups) ::kill(-group, SIGKILL);
  ::_exit(0);
}

}  // namespace

Result<Guardian> Guardian::start() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return ipc::system_error(Code::failed, "can't make a pipe for the guardian", errno);
  ipc::Fd read(ends[0]);
  ipc::Fd write(ends[1]);
  const pid_t pid = ::_Fork();
  if (pid < 0)
    return ipc::system_error(Code::failed, "can't start a process", errno, "raise the limit of processes: ulimit -u");
  if (pid == 0) {
    write.reset();
    keep_watch(read.get());
  }
  return Guardian(pid, std::move(write));
}

Guardian::~Guardian() {
  if (!orders_) return;
  orders_.reset();
  ::waitpid(pid_, nullptr, 0);
}

void Guardian::guard(pid_t group) {
  const Order order = group;
  [[maybe_unused]] const auto written = ::write(orders_.get(), &order, sizeof order);
}

void Guardian::forget(pid_t group) {
  const Order order = -group;
  [[maybe_unused]] const auto written = ::write(orders_.get(), &order, sizeof order);
}

}  // namespace muster::cli
