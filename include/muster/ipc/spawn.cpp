#include <muster/ipc/spawn.hpp>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <fmt/format.h>

namespace muster::ipc {

namespace {

constexpr int first_free = 4;

/// What the new process has of this one.
class Actions {
 public:
  Actions() {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
    try_to(::posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0));
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    sigset_t all;
    ::sigfillset(&all);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    // Ctrl-C in a terminal ends the process that starts this one, and with it this one.
    ::posix_spawnattr_setpgroup(&attributes_, 0);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~Actions() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;

  void give(const Given& given) {
    // Low descriptors are overwritten in the new process, so what is given must not be there.
    const Fd& far = far_.emplace_back(::fcntl(given.fd, F_DUPFD_CLOEXEC, first_free));
    try_to(far ? ::posix_spawn_file_actions_adddup2(&actions_, far.get(), given.as) : errno);
    last_ = std::max(last_, given.as);
    has_output_ = has_output_ || given.as == STDOUT_FILENO;
  }

  [[nodiscard]] int spawn(const Program& program, pid_t& pid) {
    if (!has_output_) try_to(::posix_spawn_file_actions_adddup2(&actions_, STDERR_FILENO, STDOUT_FILENO));
    try_to(::posix_spawn_file_actions_addclosefrom_np(&actions_, last_ + 1));
    if (failed_ != 0) return failed_;
    std::vector<char*> arguments;
    arguments.reserve(program.arguments.size() + 1);
    for (const auto& argument : program.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    return ::posix_spawn(&pid, program.path.c_str(), &actions_, &attributes_, arguments.data(), environ);
  }

 private:
  void try_to(int failed) {
    if (failed_ == 0) failed_ = failed;
  }

  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
  std::vector<Fd> far_;
  int last_ = STDERR_FILENO;
  bool has_output_ = false;
  int failed_ = 0;
};

}  // namespace

int spawn(const Program& program, std::span<const Given> given, Child& child) {
  Actions actions;
  for (const auto& one : given) actions.give(one);
  if (const int failed = actions.spawn(program, child.pid); failed != 0) return failed;
  child.process = Fd(static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0)));
  if (child.process) return 0;
  const int failed = errno;
  ::kill(child.pid, SIGKILL);
  while (::waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  child.pid = 0;
  return failed;
}

std::string how_it_ended(const Child& child) {
  constexpr int patience_ms = 2000;
  pollfd over{child.process.get(), POLLIN, 0};
  if (::poll(&over, 1, patience_ms) <= 0) return "it can't be ended";
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED) != 0)
    if (errno != EINTR) return "it is gone";
  if (info.si_code == CLD_EXITED) return fmt::format("it exited with status {}", info.si_status);
  const char* const signal = ::sigabbrev_np(info.si_status);
  return fmt::format("it was ended by SIG{}", signal ? signal : std::to_string(info.si_status).c_str());
}

}  // namespace muster::ipc
