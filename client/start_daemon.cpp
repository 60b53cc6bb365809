// A lock on a file beside the socket decides who starts it; the kernel drops the lock of a starter that dies.
#include "start_daemon.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/place.hpp>

#include "interrupted.hpp"

namespace muster::detail {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

namespace {

constexpr auto pause_min = std::chrono::milliseconds(2);
constexpr auto pause_max = std::chrono::milliseconds(32);

bool is_program(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0 && !fs::is_directory(path); }

/// Between fork and exec of a process with threads only async-signal-safe calls are allowed; all is prepared before.
/// `log` and `ready` are far from 0 to 3.
[[noreturn]] void become_daemon(const char* program, char* const* arguments, int log, int ready) {
  // A process group of its own keeps a terminal's Ctrl-C away. It stays in the session: where Linux shares the cores
  // out among sessions, a daemon in another one competes with its own ranks (adr/0008).
  ::setpgid(0, 0);
  // A second fork, so that the daemon is nobody's child and no zombie is left.
  if (const pid_t again = ::_Fork(); again != 0) ::_exit(again < 0 ? 1 : 0);
  constexpr int ready_as = 3;
  ::close(0);
  if (::open("/dev/null", O_RDONLY) != 0) ::_exit(1);
  ::dup2(log, 1);
  ::dup2(log, 2);
  ::dup2(ready, ready_as);
  ::syscall(SYS_close_range, ready_as + 1, ~0U, 0);
  // What the starter ignores or blocks is its own business.
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  // The end of the session, or of its terminal, is not the daemon's.
  ::signal(SIGHUP, SIG_IGN);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::umask(S_IRWXG | S_IRWXO);
  if (::chdir("/") != 0) ::_exit(1);
  ::execv(program, arguments);
  ::_exit(127);
}

/// A copy of the descriptor that standard streams can't collide with.
Result<ipc::Fd> far_copy(const ipc::Fd& fd) {
  constexpr int far = 16;
  ipc::Fd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, far));
  if (!copy) return ipc::system_error(Code::failed, "can't copy a descriptor", errno, "raise `ulimit -n`");
  return copy;
}

/// What a daemon that could not start said: the last complaint in the log since `offset`. A daemon that runs meanwhile
/// writes to the same log, so the last line may be its.
std::string complaint_since(const std::string& path, std::streamoff offset) {
  std::ifstream file(path);
  file.seekg(offset);
  std::string line;
  std::string found;
  while (std::getline(file, line))
    if (line.starts_with("musterd: ") || found.empty()) found = line;
  return found;
}

Result<void> spawn(const std::string& program, const std::string& socket, const ConnectOptions& options,
                   const std::string& idle_exit_s, steady_clock::time_point until) {
  const std::string log_file = daemon_log(socket);
  const ipc::Fd log(::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!log) return ipc::system_error(Code::denied, "can't open the daemon's log " + log_file, errno);
  const auto log_bytes = static_cast<std::streamoff>(::lseek(log.get(), 0, SEEK_END));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ipc::system_error(Code::failed, "can't make a pipe", errno);
  const ipc::Fd read_end(ends[0]);
  ipc::Fd write_end(ends[1]);
  auto log_copy = far_copy(log);
  auto ready_copy = far_copy(write_end);
  if (!log_copy) return log_copy.error();
  if (!ready_copy) return ready_copy.error();
  std::vector<std::string> words{program, "--socket", socket, "--idle-exit", idle_exit_s, "--ready-fd", "3"};
  if (!options.memory.empty()) words.insert(words.end(), {"--memory", options.memory});
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  // _Fork() runs no fork handlers: this child never touches the store.
  const pid_t child = ::_Fork();
  if (child < 0) return ipc::system_error(Code::failed, "can't fork to start the daemon", errno);
  if (child == 0) become_daemon(program.c_str(), arguments.data(), log_copy->get(), ready_copy->get());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  write_end.reset();
  ready_copy->reset();
  // A newline: it is ready. The end of the pipe: it has ended, most likely as another one serves this socket.
  for (;;) {
    pollfd readable{read_end.get(), POLLIN, 0};
    constexpr int slice_ms = 100;
    if (::poll(&readable, 1, slice_ms) > 0) {
      char byte = 0;
      if (::read(read_end.get(), &byte, 1) == 1) return {};
      const auto why = complaint_since(log_file, log_bytes);
      if (why.find("another musterd serves") != std::string::npos) return {};
      return Error(Code::daemon_unavailable, "the daemon did not start: " + why, "its log is " + log_file);
    }
    if (steady_clock::now() > until || interrupted())
      return Error(Code::daemon_unavailable, "the daemon did not get ready in time", "its log is " + log_file);
  }
}

}  // namespace

std::string daemon_log(const std::string& socket) {
  return (socket.ends_with(".sock") ? socket.substr(0, socket.size() - 5) : socket) + ".log";
}

Result<std::string> find_daemon(const ConnectOptions& options) {
  std::vector<fs::path> places;
  if (!options.daemon_path.empty()) places = {options.daemon_path};
  else if (const char* given = std::getenv("MUSTER_DAEMON"); given && *given) places = {given};
  else {
    Dl_info library{};
    if (::dladdr(reinterpret_cast<const void*>(&find_daemon), &library) != 0 && library.dli_fname) {
      const fs::path here = fs::path(library.dli_fname).parent_path();
      places.push_back(here / "musterd");
    }
    std::error_code ignored;
    places.push_back(fs::read_symlink("/proc/self/exe", ignored).parent_path() / "musterd");
    // A Python started by a link in a virtual environment: its bin folder is the link's.
    for (const char* variable : {"VIRTUAL_ENV"})
      if (const char* root = std::getenv(variable)) places.push_back(fs::path(root) / "bin" / "musterd");
    std::string path = std::getenv("PATH") ? std::getenv("PATH") : "";
    for (std::size_t begin = 0; begin <= path.size();) {
      const auto end = std::min(path.find(':', begin), path.size());
      places.push_back(fs::path(path.substr(begin, end - begin)) / "musterd");
      begin = end + 1;
    }
  }
  for (const auto& place : places)
    if (is_program(place)) return fs::absolute(place).string();
  return Error(Code::daemon_unavailable, "musterd was not found: looked at " + places.front().string() + " and on PATH",
               "install it, or set MUSTER_DAEMON to its path");
}

Result<void> start_daemon(const std::string& path, const ConnectOptions& options, steady_clock::time_point until,
                          const std::string& idle_exit_s) {
  auto program = find_daemon(options);
  if (!program) return program.error();
  if (auto made = ipc::make_place(path); !made) return made.error();
  const std::string lock_path = path + ".start";
  const ipc::Fd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return ipc::system_error(Code::denied, "can't open " + lock_path, errno);
  // Whoever has the lock starts it; the others find it running. The kernel frees the lock of a starter that is killed.
  for (auto pause = pause_min; ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0; pause = std::min(2 * pause, pause_max)) {
    if (ipc::is_served(path)) return {};
    if (steady_clock::now() > until || interrupted())
      return Error(Code::daemon_unavailable,
                   "another process has been starting the daemon at " + path + " for too long",
                   "its log is " + daemon_log(path));
    std::this_thread::sleep_for(pause);
  }
  if (ipc::is_served(path)) return {};
  return spawn(*program, path, options, idle_exit_s, until);
}

}  // namespace muster::detail
