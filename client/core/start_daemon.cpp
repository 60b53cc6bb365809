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
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/place.hpp>

#include "base/interrupted.hpp"

namespace muster::detail {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

namespace {

constexpr auto pause_min = std::chrono::milliseconds(2);
constexpr auto pause_max = std::chrono::milliseconds(32);

bool is_program(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0 && !fs::is_directory(path); }

/// Tells the starter what went wrong, in the same form as the daemon itself does. There is no hint.
[[noreturn]] void give_up(int ready, const char* what) {
  const char* const why = ::strerrordesc_np(errno);
  for (const char* part : {"1\n", what, ": ", why ? why : "unknown error", "\n\n"})
    if (::write(ready, part, std::strlen(part)) < 0) break;
  ::_exit(1);
}

/// Between fork and exec a process with threads may make only async-signal-safe calls, so everything is prepared
/// before. `log` and `ready` are above 3.
[[noreturn]] void become_daemon(const char* program, char* const* arguments, int log, int ready) {
  // A process group of its own, so that Ctrl-C in a terminal does not reach the daemon. It stays in the session: where
  // Linux shares the cores out among sessions, a daemon in another session competes with its own ranks (adr/0008).
  ::setpgid(0, 0);
  // Forks a second time, so that the daemon is nobody's child and does not become a zombie.
  const pid_t again = ::_Fork();
  if (again < 0) give_up(ready, "can't fork");
  if (again > 0) ::_exit(0);
  constexpr int ready_as = 3;
  ::close(0);
  if (::open("/dev/null", O_RDONLY) != 0) give_up(ready, "can't open /dev/null");
  ::dup2(log, 1);
  ::dup2(log, 2);
  ::dup2(ready, ready_as);
  ::syscall(SYS_close_range, ready_as + 1, ~0U, 0);
  // The daemon must not inherit which signals the starter ignores or blocks.
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  // The daemon goes on when the session or its terminal ends.
  ::signal(SIGHUP, SIG_IGN);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::umask(S_IRWXG | S_IRWXO);
  if (::chdir("/") != 0) give_up(ready_as, "can't enter /");
  ::execv(program, arguments);
  give_up(ready_as, "can't execute it");
}

/// A copy of the descriptor whose number does not collide with standard streams.
Result<ipc::Fd> far_copy(const ipc::Fd& fd) {
  constexpr int far = 16;
  ipc::Fd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, far));
  // Above the limit the kernel calls any number invalid.
  if (!copy) return ipc::system_error(Code::failed, "can't copy a descriptor", errno == EINVAL ? EMFILE : errno);
  return copy;
}

/// Parses what the daemon said at its start: its exit status, why it did not start, and what to do.
Result<void> understand(const std::string& said, const std::string& program, const std::string& log_file) {
  constexpr const char* another_serves = "3";
  std::istringstream lines(said);
  std::string status;
  std::string why;
  std::string hint;
  std::getline(lines, status);
  std::getline(lines, why);
  std::getline(lines, hint);
  if (status == another_serves) return {};
  if (hint.empty()) hint = "mend that, or look at its log, " + log_file;
  if (why.empty()) {
    why = program + " ended without saying why";
    hint = fmt::format("see that it is a musterd; look at its log, {}, or run it by hand", log_file);
  }
  return Error(Code::daemon_unavailable, "the daemon did not start: " + why, hint);
}

/// Waits for the daemon's report: see daemon/base/starter.hpp.
Result<void> hear(const ipc::Fd& ready, const std::string& program, const std::string& log_file,
                  steady_clock::time_point until) {
  constexpr std::size_t said_bytes_max = 4096;
  constexpr int slice_ms = 100;
  std::string said;
  for (;;) {
    pollfd readable{ready.get(), POLLIN, 0};
    if (::poll(&readable, 1, slice_ms) > 0) {
      char bytes[256];
      const auto got = ::read(ready.get(), bytes, sizeof bytes);
      if (got > 0) said.append(bytes, static_cast<std::size_t>(got));
      if (said == "0\n") return {};
      if (got > 0 && said.size() < said_bytes_max) continue;
      return understand(said, program, log_file);
    }
    if (steady_clock::now() > until || interrupted())
      return Error(Code::daemon_unavailable, "the daemon did not get ready in time", "its log is " + log_file);
  }
}

/// A full disk does not count as a denial.
Error cant_open(const std::string& what, int error_number) {
  const bool refused = error_number == EACCES || error_number == EPERM || error_number == ELOOP;
  return ipc::system_error(refused ? Code::denied : Code::daemon_unavailable, "can't open " + what, error_number,
                           "make room there, or name another place: MUSTER_SOCKET, or --socket");
}

Result<void> spawn(const std::string& program, const std::string& socket, const ConnectOptions& options,
                   const std::vector<std::string>& settings, steady_clock::time_point until) {
  const std::string log_file = daemon_log(socket);
  const ipc::Fd log(::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!log) return cant_open("the daemon's log " + log_file, errno);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ipc::system_error(Code::failed, "can't make a pipe", errno);
  const ipc::Fd read_end(ends[0]);
  ipc::Fd write_end(ends[1]);
  auto log_copy = far_copy(log);
  auto ready_copy = far_copy(write_end);
  if (!log_copy) return log_copy.error();
  if (!ready_copy) return ready_copy.error();
  std::vector<std::string> words{program, "--socket", socket, "--ready-fd", "3"};
  words.insert(words.end(), settings.begin(), settings.end());
  if (!options.memory.empty()) words.insert(words.end(), {"--memory", options.memory});
  if (options.pickle_lease)
    words.insert(words.end(),
                 {"--pickle-lease", std::to_string(std::chrono::duration<double>(*options.pickle_lease).count())});
  if (!options.nccl_wheel.empty()) words.insert(words.end(), {"--nccl-wheel", options.nccl_wheel});
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  // _Fork() runs no fork handlers: this child never touches the store.
  const pid_t child = ::_Fork();
  if (child < 0)
    return ipc::system_error(errno == EAGAIN ? Code::quota_exceeded : Code::failed, "can't fork to start the daemon",
                             errno, "end other processes, or raise the limit of them: ulimit -u");
  if (child == 0) become_daemon(program.c_str(), arguments.data(), log_copy->get(), ready_copy->get());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  write_end.reset();
  ready_copy->reset();
  return hear(read_end, program, log_file, until);
}

/// Returns the program that the user named. Does not look for another one.
Result<std::string> named_daemon(const fs::path& place, const std::string& by) {
  if (is_program(place)) return fs::absolute(place).string();
  std::error_code ignored;
  const char* const why = !fs::exists(place, ignored)        ? "which is not there"
                          : fs::is_directory(place, ignored) ? "which is a folder"
                                                             : "which this user can't execute";
  return Error(Code::daemon_unavailable, fmt::format("musterd was not found: {} names {}, {}", by, place.string(), why),
               fmt::format("set {} to the path of musterd, or to nothing, so that it is looked for", by));
}

/// Returns the places near this library or program where musterd may be; each place once.
std::vector<fs::path> places_nearby(const ConnectOptions& options) {
  std::vector<fs::path> places;
  const auto add = [&places](const fs::path& folder) {
    const auto place = folder / "musterd";
    if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
  };
  Dl_info library{};
  if (::dladdr(reinterpret_cast<const void*>(&find_daemon), &library) != 0 && library.dli_fname)
    add(fs::path(library.dli_fname).parent_path());
  std::error_code ignored;
  add(fs::read_symlink("/proc/self/exe", ignored).parent_path());
  if (!options.daemon_folder.empty()) add(options.daemon_folder);
  // If Python was started by a link in a virtual environment, looks in that environment's bin folder.
  if (const char* root = std::getenv("VIRTUAL_ENV")) add(fs::path(root) / "bin");
  return places;
}

std::vector<fs::path> folders_on_path() {
  std::vector<fs::path> folders;
  const char* const variable = std::getenv("PATH");
  const std::string path = variable != nullptr ? variable : "";
  for (std::size_t begin = 0; begin <= path.size();) {
    const auto end = std::min(path.find(':', begin), path.size());
    folders.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return folders;
}

}  // namespace

std::string daemon_log(const std::string& socket) {
  return (socket.ends_with(".sock") ? socket.substr(0, socket.size() - 5) : socket) + ".log";
}

Result<std::string> find_daemon(const ConnectOptions& options) {
  if (!options.daemon_path.empty()) return named_daemon(options.daemon_path, "daemon_path");
  const char* const given = std::getenv("MUSTER_DAEMON");
  if (given != nullptr && *given != '\0') return named_daemon(given, "MUSTER_DAEMON");
  const auto near = places_nearby(options);
  auto places = near;
  for (auto& folder : folders_on_path()) places.push_back(folder / "musterd");
  for (const auto& place : places)
    if (is_program(place)) return fs::absolute(place).string();
  std::string looked;
  for (const auto& place : near) looked += (looked.empty() ? "" : ", ") + place.string();
  return Error(Code::daemon_unavailable, fmt::format("musterd was not found: looked at {} and on PATH", looked),
               "install it, or set MUSTER_DAEMON to its path");
}

Result<void> start_daemon(const std::string& path, const ConnectOptions& options, steady_clock::time_point until,
                          const std::vector<std::string>& settings) {
  auto program = find_daemon(options);
  if (!program) return program.error();
  if (auto made = ipc::make_place(path); !made) return made.error();
  const std::string lock_path = path + ".start";
  const ipc::Fd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return cant_open(lock_path, errno);
  // The process with the lock starts the daemon; the others find it running. The kernel frees the lock of a killed
  // starter.
  for (auto pause = pause_min; ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0; pause = std::min(2 * pause, pause_max)) {
    if (ipc::is_served(path)) return {};
    if (steady_clock::now() > until || interrupted())
      return Error(Code::daemon_unavailable,
                   fmt::format("another process has been starting the daemon at {} for too long", path),
                   "its log is " + daemon_log(path));
    std::this_thread::sleep_for(pause);
  }
  if (ipc::is_served(path)) return {};
  return spawn(*program, path, options, settings, until);
}

}  // namespace muster::detail
