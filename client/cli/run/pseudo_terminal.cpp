// No session has this terminal, so the kernel tells nobody of a new size: `muster run` passes SIGWINCH on.
#include "pseudo_terminal.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cstdlib>

namespace muster::cli {

namespace {

/// Passes output through unchanged: our own terminal turns "\n" into "\r\n", and that must not happen twice.
bool make_raw(int terminal) {
  termios settings{};
  if (::tcgetattr(terminal, &settings) != 0) return false;
  ::cfmakeraw(&settings);
  return ::tcsetattr(terminal, TCSANOW, &settings) == 0;
}

}  // namespace

std::optional<PseudoTerminal> open_pseudo_terminal(int like) {
  PseudoTerminal made;
  made.ours = ipc::Fd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!made.ours || ::unlockpt(made.ours.get()) != 0) return {};
  made.theirs = ipc::Fd(::ioctl(made.ours.get(), TIOCGPTPEER, O_WRONLY | O_NOCTTY | O_CLOEXEC));
  if (!made.theirs || !make_raw(made.theirs.get())) return {};
  follow_size(made.ours.get(), like);
  return made;
}

bool follow_size(int terminal, int like) {
  winsize wanted{};
  winsize found{};
  if (::ioctl(like, TIOCGWINSZ, &wanted) != 0 || ::ioctl(terminal, TIOCGWINSZ, &found) != 0) return false;
  if (wanted.ws_row == found.ws_row && wanted.ws_col == found.ws_col) return false;
  return ::ioctl(terminal, TIOCSWINSZ, &wanted) == 0;
}

unsigned terminal_columns(int fd) {
  constexpr unsigned usual = 80;
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : usual;
}

bool same_terminal(int one, int other) {
  struct stat first {};
  struct stat second {};
  return ::isatty(one) == 1 && ::isatty(other) == 1 && ::fstat(one, &first) == 0 && ::fstat(other, &second) == 0 &&
         first.st_rdev == second.st_rdev;
}

}  // namespace muster::cli
