// One poll() loop. No event says that a process group is empty, so the loop checks lingering groups every few
// milliseconds.
#include "run_loop.hpp"

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include <fmt/format.h>

#include "../terminal.hpp"
#include "../text.hpp"
#include "pseudo_terminal.hpp"

namespace muster::cli {

namespace {

constexpr std::array handled_signals{SIGCHLD, SIGINT,  SIGTERM, SIGHUP,  SIGQUIT,
                                     SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT, SIGWINCH};
constexpr int lingering_poll_ms = 5;

TimePoint now() { return std::chrono::steady_clock::now(); }

bool is_ignored(int signal) {
  struct sigaction current {};
  return ::sigaction(signal, nullptr, &current) == 0 && current.sa_handler == SIG_IGN;
}

Ending ending_of(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return {info.si_status, 0};
  return {0, info.si_status};
}

/// The line without its prefix and newline, cut to what fits in a message.
std::string words_of(const std::string& lines, std::size_t prefix_bytes) {
  if (lines.size() <= prefix_bytes + 1) return {};
  const auto start = lines.size() < 2 ? std::string::npos : lines.rfind('\n', lines.size() - 2);
  std::string line = lines.substr(start == std::string::npos ? 0 : start + 1);
  line = line.substr(std::min(prefix_bytes, line.size()));
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  while (!line.empty() && line.front() == ' ') line.erase(0, 1);
  if (line.size() > 300) line = line.substr(0, 300) + "...";
  return line;
}

}  // namespace

Result<ipc::Fd> RunLoop::take_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  ::sigemptyset(&set);
  for (const int one : handled_signals)
    if (!is_ignored(one))
      ::sigaddset(&set, one);  // nohup and background jobs of shells ignore some signals; those stay ignored
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  ipc::Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return ipc::system_error(Code::failed, "can't receive signals", errno);
  return fd;
}

RunLoop::RunLoop(Supervisor supervisor, Guardian guardian, ipc::Fd signals)
    : supervisor_(std::move(supervisor)),
      guardian_(std::move(guardian)),
      signals_(std::move(signals)),
      one_terminal_(same_terminal(STDOUT_FILENO, STDERR_FILENO)) {}

void RunLoop::add(RankProcess process) {
  guardian_.guard(process.pid);
  const int rank = static_cast<int>(ranks_.size());
  const auto stream_to = [rank](int target, RankStream& from) {
    return Stream{std::move(from.fd), target, from.terminal, LinePrefixer(rank_prefix(rank, wants_colour(target)))};
  };
  Stream output = stream_to(STDOUT_FILENO, process.output);
  Stream error = stream_to(STDERR_FILENO, process.error);
  ranks_.push_back(
      std::make_unique<Rank>(Rank{std::move(process), std::move(output), std::move(error), false, false, {}}));
}

void RunLoop::abandon() {
  for (const auto& rank : ranks_) ::kill(-rank->process.pid, SIGKILL);
  for (const auto& rank : ranks_) {
    ::waitpid(rank->process.pid, nullptr, 0);
    guardian_.forget(rank->process.pid);
  }
}

void RunLoop::run_to_end() {
  while (!supervisor_.over() || !queue_.empty() || streams_open()) wait_for_events();
}

bool RunLoop::wrote_to_terminal(int rank) const {
  const auto& one = *ranks_[static_cast<std::size_t>(rank)];
  return one.error.terminal || (one.output.terminal && one_terminal_);
}

bool RunLoop::streams_open() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->output.fd || rank->error.fd; });
}

int RunLoop::poll_timeout_ms() const {
  if (!supervisor_.lingering().empty()) return lingering_poll_ms;
  const auto deadline = supervisor_.deadline();
  if (!deadline) return -1;
  const auto rest = std::chrono::ceil<std::chrono::milliseconds>(*deadline - now()).count();
  return static_cast<int>(std::clamp<long>(rest, 0, 60'000));
}

void RunLoop::wait_for_events() {
  std::vector<pollfd> polled{{signals_.get(), POLLIN, 0}};
  std::vector<std::pair<Rank*, Stream*>> streams;
  for (const auto& rank : ranks_) {
    for (Stream* stream : {&rank->output, &rank->error}) {
      if (!stream->fd || queue_.full()) continue;
      polled.push_back({stream->fd.get(), POLLIN, 0});
      streams.emplace_back(rank.get(), stream);
    }
  }
  if (!queue_.empty()) polled.push_back({queue_.fd(), POLLOUT, 0});
  const int ready = ::poll(polled.data(), polled.size(), poll_timeout_ms());
  if (ready > 0) {
    // Output first: what a rank wrote before it ended is printed before the message about its end.
    for (std::size_t i = 0; i < streams.size(); ++i)
      if (polled[i + 1].revents != 0) read_stream(*streams[i].first, *streams[i].second);
    if (!queue_.empty() && polled.size() == streams.size() + 2 && polled.back().revents != 0) write_output();
    if (polled[0].revents != 0) read_signals();
  }
  send(supervisor_.on_time(now()));
  look_for_empty_groups();
}

void RunLoop::read_signals() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) handle_signal(static_cast<int>(info.ssi_signo));
  reap();  // several ranks may have ended with only one SIGCHLD
  look_for_stopped();
}

void RunLoop::handle_signal(int signal) {
  if (signal == SIGCHLD) return;
  if (signal == SIGTSTP) return stop_and_go_on();
  const bool resized = follow_sizes();
  send(supervisor_.on_signal(signal, now()));
  // The kernel does not tell a process of a new size while it is stopped or in the background.
  if (resized && signal != SIGWINCH) send(supervisor_.on_signal(SIGWINCH, now()));
}

bool RunLoop::follow_sizes() {
  bool resized = false;
  for (const auto& rank : ranks_)
    for (const Stream* stream : {&rank->output, &rank->error})
      if (stream->fd && stream->terminal) resized |= follow_size(stream->fd.get(), stream->target);
  return resized;
}

void RunLoop::stop_and_go_on() {
  send(supervisor_.on_signal(SIGTSTP, now()));
  ::raise(SIGSTOP);
  handle_signal(SIGCONT);
}

void RunLoop::reap() {
  std::vector<RankEnding> endings;
  std::vector<pid_t> zombies;
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
    auto& one = *ranks_[rank];
    siginfo_t info{};
    const auto id = static_cast<id_t>(one.process.pid);
    if (one.ended || ::waitid(P_PID, id, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) continue;
    one.ended = true;
    endings.push_back({static_cast<int>(rank), ending_of(info)});
    zombies.push_back(one.process.pid);
  }
  if (endings.empty()) return;
  // Sends signals before it reaps: until then no other group can have the group's number.
  send(supervisor_.on_endings(endings, now()));
  for (const pid_t pid : zombies) ::waitpid(pid, nullptr, 0);
  tell_of_failures(endings);
}

/// Tells of stopped ranks once nothing else runs: `muster run` would wait for them for ever, and nobody would know why.
void RunLoop::look_for_stopped() {
  std::vector<std::string> stopped;
  std::string pids;
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
    auto& one = *ranks_[rank];
    if (one.ended) continue;
    siginfo_t info{};
    const auto id = static_cast<id_t>(one.process.pid);
    while (::waitid(P_PID, id, &info, WSTOPPED | WCONTINUED | WNOHANG) == 0 && info.si_pid != 0) {
      one.stopped = info.si_code == CLD_STOPPED;
      info = {};
    }
    if (!one.stopped) return;
    stopped.push_back(fmt::format("rank {} (pid {})", rank, one.process.pid));
    pids += fmt::format(" {}", one.process.pid);
  }
  if (told_of_stopped_ || stopped.empty() || stopped.size() == ranks_.size()) return;
  told_of_stopped_ = true;
  push_lines(STDERR_FILENO, fmt::format("muster run: {} {} stopped, and all other ranks have ended\n"
                                        "  hint: let it go on with `kill -CONT{}`, or press Ctrl-C to end the run\n",
                                        join(stopped, ", "), stopped.size() == 1 ? "is" : "are", pids));
}

/// When the other ranks keep going, reports a failure at once: they may run for hours.
void RunLoop::tell_of_failures(const std::vector<RankEnding>& endings) {
  const int others = supervisor_.running();
  if (!supervisor_.keeps_going() || others == 0) return;
  for (const auto& end : endings) {
    if (!end.ending.failed()) continue;
    push_lines(STDERR_FILENO,
               fmt::format("muster run: {}; {} {} going\n", end_text(end),
                           plural(static_cast<std::uint64_t>(others), "other rank"), others == 1 ? "keeps" : "keep"));
  }
}

std::string RunLoop::end_text(const RankEnding& end) const {
  return fmt::format("rank {} (pid {}) {}", end.rank, pid(end.rank), how(end.ending));
}

void RunLoop::look_for_empty_groups() {
  for (const int rank : supervisor_.lingering()) {
    auto& one = *ranks_[static_cast<std::size_t>(rank)];
    if (::kill(-one.process.pid, 0) == 0 || errno != ESRCH) continue;
    guardian_.forget(one.process.pid);
    supervisor_.on_group_gone(rank);
  }
  if (!supervisor_.over()) return;
  // A process outside the groups (a daemon that a rank started) may hold a stream open for ever, so takes only what is
  // there.
  for (const auto& rank : ranks_) {
    for (Stream* stream : {&rank->output, &rank->error}) {
      while (stream->fd && !queue_.full()) read_stream(*rank, *stream);
    }
  }
}

void RunLoop::read_stream(Rank& rank, Stream& stream) {
  std::array<char, 64 << 10> bytes;  // NOLINT: filled by read
  const ssize_t count = ::read(stream.fd.get(), bytes.data(), bytes.size());
  const bool drained = count < 0 && (errno == EAGAIN || errno == EINTR);
  if (drained && !supervisor_.over()) return;
  if (count <= 0) stream.fd.reset();
  const std::string_view read(bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  if (stream.terminal) take_from_terminal(rank, stream, read);
  else take_from_pipe(rank, stream, read);
}

TerminalLine& RunLoop::line_on(int target) { return lines_[target == STDERR_FILENO && !one_terminal_ ? 1 : 0]; }

void RunLoop::take_from_pipe(Rank& rank, Stream& stream, std::string_view bytes) {
  std::string lines = bytes.empty() ? stream.prefixer.finish() : stream.prefixer.take(bytes, now());
  if (stream.target == STDERR_FILENO) {
    const auto words = words_of(lines, stream.prefixer.prefix().size());
    if (!words.empty()) rank.last_words = words;
  }
  push_lines(stream.target, std::move(lines));
}

/// Prints whole lines. They do not tear the line that rank 0 has begun on our terminal.
void RunLoop::push_lines(int target, std::string lines) {
  auto& line = line_on(target);
  if (line.begun()) lines = line.interrupt(std::move(lines), {terminal_columns(target), knows_escapes()});
  queue_.push(target, std::move(lines));
}

void RunLoop::take_from_terminal(Rank& rank, Stream& stream, std::string_view bytes) {
  auto& line = line_on(stream.target);
  line.take(bytes);
  queue_.push(stream.target, bytes.empty() ? line.finish() : std::string(bytes));
  const bool has_errors = stream.target == STDERR_FILENO || one_terminal_;
  if (bytes.empty() && has_errors) rank.last_words = words_of(line.last_words(), 0);
}

void RunLoop::write_output() {
  const int target = queue_.fd();
  if (queue_.write_some() == OutputQueue::Written::some) return;
  // Nobody reads our output any more. The ranks learn that by SIGPIPE, as they would without us.
  for (const auto& rank : ranks_)
    for (Stream* stream : {&rank->output, &rank->error})
      if (stream->target == target) stream->fd.reset();
}

void RunLoop::send(const Supervisor::Actions& actions) {
  for (const auto& action : actions) ::kill(-pid(action.rank), action.signal);
}

}  // namespace muster::cli
