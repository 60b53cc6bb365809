// Runs a program that may hang, crash or print without an end, and comes back in time with what it printed. The daemon
// and `muster doctor` run the probe of GPUs so.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include <muster/ipc/spawn.hpp>

namespace muster::ipc {

struct ChildLimits {
  std::chrono::milliseconds time{30'000};
  std::size_t out_bytes = 256 << 10;  ///< of standard output; a child that prints more is ended
  std::size_t error_bytes = 4 << 10;  ///< of standard error; the last ones are kept
};

struct ChildEnd {
  enum class How {
    exited,       ///< `number` is its status
    killed,       ///< `number` is the signal
    finished,     ///< it printed something, closed its output, and had to be ended: drivers may hang when they are left
    timed_out,    ///< it had to be ended
    too_much,     ///< it printed too much and had to be ended
    not_started,  ///< `number` is an errno
  };
  How how = How::not_started;
  int number = 0;
  std::string out;
  std::string error;
};

/// A child that can't even be killed, as it hangs in the kernel, is left behind.
[[nodiscard]] ChildEnd run_child(const Program& program, const ChildLimits& limits);

/// The last line that has something in it: what a child printed last says most about its end.
[[nodiscard]] std::string last_line(std::string text);

}  // namespace muster::ipc
