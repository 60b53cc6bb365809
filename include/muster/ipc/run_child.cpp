#include <muster/ipc/run_child.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

namespace muster::ipc {

namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds grace{2};          ///< for a child that was killed
constexpr std::chrono::seconds time_to_leave{1};  ///< for a child that has closed its output

/// Both ends are closed on exec; the child gets copies. Reading never waits.
struct Pipe {
  Fd read;
  Fd write;

  [[nodiscard]] bool open() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return false;
    read = Fd(ends[0]);
    write = Fd(ends[1]);
    return ::fcntl(read.get(), F_SETFL, O_NONBLOCK) == 0;
  }
};

/// Reads what is there now.
void read_into(const Fd& fd, std::string& text) {
  std::array<char, 4096> bytes;
  const auto got = ::read(fd.get(), bytes.data(), bytes.size());
  if (got > 0) text.append(bytes.data(), static_cast<std::size_t>(got));
}

/// Reads what a child that has ended has left: no more than a pipe holds, as what it started may still print.
void read_rest(const Fd& fd, std::string& text) {
  constexpr std::size_t pipe_bytes = 64 << 10;
  const auto most = text.size() + pipe_bytes;
  for (auto before = text.size() + 1; before != text.size() && text.size() < most;) {
    before = text.size();
    read_into(fd, text);
  }
}

/// One child that runs, and what it has printed so far.
class Run {
 public:
  Run(const Child& child, const Pipe& out, const Pipe& error, const ChildLimits& limits)
      : child_(child), out_(out), error_(error), limits_(limits), until_(steady_clock::now() + limits.time) {}

  ChildEnd wait() {
    for (;;) {
      if (wait_for_news(until_)) return reap(ChildEnd::How::exited);
      if (end_.out.size() > limits_.out_bytes) return kill(ChildEnd::How::too_much);
      if (steady_clock::now() >= until_)
        return kill(has_finished() ? ChildEnd::How::finished : ChildEnd::How::timed_out);
    }
  }

 private:
  /// Returns whether the child has ended. Comes back early if it printed something.
  bool wait_for_news(steady_clock::time_point until) {
    using std::chrono::milliseconds;
    const auto left = std::chrono::ceil<milliseconds>(until - steady_clock::now()).count();
    std::array<pollfd, 3> news{pollfd{child_.process.get(), POLLIN, 0}, pollfd{out_.read.get(), POLLIN, 0},
                               pollfd{error_.read.get(), POLLIN, 0}};
    // A pipe that the child has closed would be news for ever.
    if (out_closed_) news[1].fd = -1;
    if (error_closed_) news[2].fd = -1;
    ::poll(news.data(), news.size(), static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000)));
    const bool had_finished = has_finished();
    take(out_.read, news[1].revents, end_.out, out_closed_);
    if (!had_finished && has_finished()) until_ = std::min(until_, steady_clock::now() + time_to_leave);
    take(error_.read, news[2].revents, end_.error, error_closed_);
    keep_end_of_error();
    return news[0].revents != 0;
  }

  void keep_end_of_error() {
    if (end_.error.size() > limits_.error_bytes) end_.error.erase(0, end_.error.size() - limits_.error_bytes);
  }

  [[nodiscard]] bool has_finished() const { return out_closed_ && !end_.out.empty(); }

  static void take(const Fd& fd, short news, std::string& text, bool& closed) {
    const auto before = text.size();
    if (news != 0) read_into(fd, text);
    closed = closed || ((news & POLLHUP) != 0 && text.size() == before);
  }

  ChildEnd reap(ChildEnd::How how) {
    read_rest(out_.read, end_.out);
    read_rest(error_.read, end_.error);
    keep_end_of_error();
    int status = 0;
    while (::waitpid(child_.pid, &status, 0) < 0 && errno == EINTR) {
    }
    const bool killed = WIFSIGNALED(status);
    const bool itself = how == ChildEnd::How::exited;
    end_.how = itself && killed ? ChildEnd::How::killed : how;
    if (itself && end_.out.size() > limits_.out_bytes) end_.how = ChildEnd::How::too_much;
    end_.number = killed ? WTERMSIG(status) : WEXITSTATUS(status);
    return std::move(end_);
  }

  ChildEnd kill(ChildEnd::How how) {
    ::kill(child_.pid, SIGKILL);
    pollfd gone{child_.process.get(), POLLIN, 0};
    if (::poll(&gone, 1, static_cast<int>(std::chrono::milliseconds(grace).count())) > 0) return reap(how);
    end_.how = how;
    return std::move(end_);
  }

  const Child& child_;
  const Pipe& out_;
  const Pipe& error_;
  const ChildLimits& limits_;
  steady_clock::time_point until_;
  ChildEnd end_;
  bool out_closed_ = false;
  bool error_closed_ = false;
};

}  // namespace

ChildEnd run_child(const Program& program, const ChildLimits& limits) {
  const auto not_started = [](int number) { return ChildEnd{ChildEnd::How::not_started, number, {}, {}}; };
  Pipe out;
  Pipe error;
  if (!out.open() || !error.open()) return not_started(errno);
  const std::array given{Given{out.write.get(), STDOUT_FILENO}, Given{error.write.get(), STDERR_FILENO}};
  Child child;
  if (const int failed = spawn(program, given, child); failed != 0) return not_started(failed);
  out.write.reset();
  error.write.reset();
  return Run(child, out, error, limits).wait();
}

std::string last_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  text.erase(0, text.rfind('\n') + 1);
  return text;
}

}  // namespace muster::ipc
