// The parent process: starts the ranks, reads their reports size by size, and prints them. It is not a client itself.
#include "bench.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "../message.hpp"
#include "../text.hpp"
#include "link.hpp"
#include "rank.hpp"
#include "report.hpp"

namespace muster::cli {

namespace {

/// A running rank. The destructor kills it if it still runs.
class RankChild {
 public:
  RankChild(pid_t pid, ipc::Fd pipe) : pid_(pid), pipe_(std::move(pipe)) {}
  RankChild(RankChild&& other) noexcept : pid_(std::exchange(other.pid_, 0)), pipe_(std::move(other.pipe_)) {}
  RankChild& operator=(RankChild&&) = delete;
  ~RankChild() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), wait();
  }
  void wait() { ::waitpid(std::exchange(pid_, 0), nullptr, 0); }
  [[nodiscard]] const ipc::Fd& pipe() const { return pipe_; }

 private:
  pid_t pid_;
  ipc::Fd pipe_;
};

Result<RankChild> start_child(const BenchOptions& options, const BenchRank& place) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return ipc::system_error(Code::failed, "can't make a pipe for a rank", errno);
  ipc::Fd read(ends[0]);
  ipc::Fd write(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0)
    return ipc::system_error(Code::failed, "can't start a process", errno, "raise the limit of processes: ulimit -u");
  if (pid > 0) return RankChild(pid, std::move(read));
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  read.reset();
  ::_exit(bench_rank(options, place, write));
}

Result<std::vector<RankChild>> start_children(const BenchOptions& options) {
  std::vector<RankChild> children;
  const std::string group = fmt::format("bench-{}", ::getpid());
  for (int rank = 0; rank < options.ranks; ++rank) {
    auto child = start_child(options, {rank, group});
    if (!child) return child.error();
    children.push_back(std::move(*child));
  }
  return children;
}

/// Returns the ranks that have written something or ended. Waits until there is one.
std::vector<std::size_t> ready_of(const std::vector<RankChild>& children, const std::set<std::size_t>& pending) {
  std::vector<pollfd> polled;
  polled.reserve(pending.size());
  for (const std::size_t rank : pending) polled.push_back({children[rank].pipe().get(), POLLIN, 0});
  while (::poll(polled.data(), polled.size(), -1) < 0 && errno == EINTR) continue;
  std::vector<std::size_t> ready;
  auto entry = polled.begin();
  for (const std::size_t rank : pending)
    if ((entry++)->revents != 0) ready.push_back(rank);
  return ready;
}

/// Reads one report per rank. If one rank failed by itself and others only lost a peer, returns the error of the first.
Result<std::vector<SizeReport>> receive_size(const std::vector<RankChild>& children) {
  std::vector<SizeReport> reports(children.size());
  std::set<std::size_t> pending;
  for (std::size_t rank = 0; rank < children.size(); ++rank) pending.insert(rank);
  std::optional<Error> failure;
  while (!pending.empty()) {
    for (const std::size_t rank : ready_of(children, pending)) {
      pending.erase(rank);
      auto report = receive_report(children[rank].pipe(), static_cast<int>(rank));
      if (report) reports[rank] = std::move(*report);
      else if (report.error().code() != Code::peer_lost) return report.error();
      else if (!failure) failure = report.error();
    }
  }
  if (failure) return *failure;
  return reports;
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

ExitStatus judge(const BenchOptions& options, std::uint64_t wrong) {
  if (wrong == 0) {
    if (!options.json && options.check) print("# every element of every result was right\n");
    return ExitStatus::ok;
  }
  return complain("bench", Error(Code::failed, format_count(wrong) + " elements of results were wrong",
                                 "run it again with one size (-b and -e alike) to see which; then please report it"));
}

}  // namespace

std::string_view name(BenchOp op) {
  constexpr std::array<std::string_view, 10> names{"allreduce", "reduce",         "broadcast",  "allgather", "gather",
                                                   "scatter",   "reduce_scatter", "all_to_all", "sendrecv",  "barrier"};
  return names[static_cast<std::size_t>(op)];
}

std::string_view name(BenchVariant variant) {
  constexpr std::array<std::string_view, 3> names{"default", "out", "first_read"};
  return names[static_cast<std::size_t>(variant)];
}

ExitStatus bench(const BenchOptions& options) {
  auto children = start_children(options);
  if (!children) return complain("bench", children.error());
  if (!options.json) print(table_head(options));
  std::uint64_t wrong = 0;
  Load load;
  for (const std::uint64_t bytes : bench_sizes(options)) {
    const auto reports = receive_size(*children);
    if (!reports) return complain("bench", reports.error());
    const Figures figures = summarize(*reports);
    const Workload workload = Workload::of(options, bytes);
    load.extend(figures.load);
    print(options.json ? json_line(options, workload, figures, load) : table_line(options, workload, figures));
    wrong += figures.wrong;
  }
  for (auto& child : *children) child.wait();
  if (!options.json) print(load_line(load));
  return judge(options, wrong);
}

}  // namespace muster::cli
