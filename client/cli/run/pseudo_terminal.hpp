// A terminal of rank 0's own, used when `muster run` writes to a terminal: programs that draw progress bars check
// whether they write to one.
#pragma once

#include <optional>

#include <muster/ipc/fd.hpp>

namespace muster::cli {

struct PseudoTerminal {
  ipc::Fd ours;    ///< reading it gives the bytes written to `theirs`; EIO once all copies of `theirs` are closed
  ipc::Fd theirs;  ///< only for writing; never becomes a controlling terminal, so Ctrl-C works as usual
};

/// Opens a terminal of the same size as the terminal `like`. Nothing if the system has none left.
[[nodiscard]] std::optional<PseudoTerminal> open_pseudo_terminal(int like);

/// Makes `terminal` as large as `like`. Returns whether its size changed.
bool follow_size(int terminal, int like);

/// How many characters fit in a line of the terminal.
[[nodiscard]] unsigned terminal_columns(int fd);

/// Whether both descriptors are the same terminal.
[[nodiscard]] bool same_terminal(int one, int other);

}  // namespace muster::cli
