// A terminal of rank 0's own, for where `muster run` writes to a terminal: programs that draw progress bars look for
// one.
#pragma once

#include <optional>

#include <muster/ipc/fd.hpp>

namespace muster::cli {

struct PseudoTerminal {
  ipc::Fd ours;    ///< gives what is written to theirs, byte by byte; EIO: all of theirs are closed
  ipc::Fd theirs;  ///< can only be written to; never becomes a controlling terminal, so Ctrl-C takes its usual way
};

/// As large as the terminal `like`. Nothing if the system has none to give.
[[nodiscard]] std::optional<PseudoTerminal> open_pseudo_terminal(int like);

/// Makes `terminal` as large as `like`; whether it had another size.
bool follow_size(int terminal, int like);

/// Characters that a line of the terminal has room for.
[[nodiscard]] unsigned terminal_columns(int fd);

/// Whether both are one and the same terminal.
[[nodiscard]] bool same_terminal(int one, int other);

}  // namespace muster::cli
