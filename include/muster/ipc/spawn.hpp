// Starts another program with few descriptors, and tells how it ended.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <muster/ipc/fd.hpp>

namespace muster::ipc {

struct Program {
  std::string path;
  std::vector<std::string> arguments;  ///< the first one is its name
};

/// A descriptor, and the number that the new program has it under: 1, 2 or 3.
struct Given {
  int fd = -1;
  int as = -1;
};

struct Child {
  int pid = 0;
  Fd process;  ///< readable when it is over
};

/// Starts the program with these descriptors and no others. Standard input is empty, and standard error is this
/// process's unless it is given; so is standard output, unless it is. Signals do what they do by default. Takes about a
/// millisecond, until the new program runs. Returns 0 or an errno.
[[nodiscard]] int spawn(const Program& program, std::span<const Given> given, Child& child);

/// Says how a child ended: "it exited with status 1". Waits for its end, but at most two seconds: a process that hangs
/// inside of the kernel can't be killed, and is left alone then.
[[nodiscard]] std::string how_it_ended(const Child& child);

}  // namespace muster::ipc
