// The workers of a daemon, found by the option that they are started with.
#pragma once

#include <poll.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include <muster/ipc/fd.hpp>

namespace musterd::testing {

/// By the numbers of their GPUs.
inline std::map<int, pid_t> workers_of(pid_t daemon) {
  std::map<int, pid_t> found;
  std::ifstream file("/proc/" + std::to_string(daemon) + "/task/" + std::to_string(daemon) + "/children");
  for (pid_t pid = 0; file >> pid;) {
    std::ifstream command("/proc/" + std::to_string(pid) + "/cmdline");
    std::ostringstream read;
    read << command.rdbuf();  // reads nothing, and does not throw, if the process ends meanwhile
    const std::string words = read.str();
    const std::string option("--gpu-worker\0", 13);
    if (const auto at = words.find(option); at != std::string::npos)
      found[std::stoi(words.substr(at + option.size()))] = pid;
  }
  return found;
}

/// Waits until a process that is not a child has ended. Returns whether it has.
inline bool ended_within(pid_t pid, std::chrono::milliseconds patience) {
  const muster::ipc::Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return true;
  pollfd end{process.get(), POLLIN, 0};
  return ::poll(&end, 1, static_cast<int>(patience.count())) == 1;
}

}  // namespace musterd::testing
