// Ensures that a daemon runs, starts the ranks, and says at the end which one failed, how and why.
#include "run.hpp"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <optional>

#include <fmt/format.h>

#include <muster/client.hpp>
#include <muster/ipc/cgroup.hpp>

#include "../message.hpp"
#include "../text.hpp"
#include "environment.hpp"
#include "run_loop.hpp"

namespace muster::cli {

namespace {

struct Circumstances {
  bool killed_for_memory = false;
  std::string last_words;
  int forwarded = 0;
  bool without_prefix = false;
};

std::string hint_for(const RankEnding& failure, const Circumstances& circumstances) {
  const int signal = failure.ending.signal;
  if (signal != 0 && signal == circumstances.forwarded)
    return "`muster run` got this signal and passed it on to every rank";
  if (signal == SIGKILL && circumstances.killed_for_memory)
    return "the kernel killed it for lack of memory; use less per rank or fewer ranks, or raise the cgroup's "
           "memory.max";
  if (signal == SIGKILL) return "somebody sent SIGKILL; the kernel does when memory is short: see `dmesg | tail`";
  if (signal == SIGSEGV || signal == SIGBUS || signal == SIGABRT || signal == SIGFPE || signal == SIGILL)
    return "a crash in native code; for Python, PYTHONFAULTHANDLER=1 shows where";
  if (circumstances.without_prefix) return "what it wrote is above, on the lines without a [rank]";
  return fmt::format("what it wrote is above, on the lines that start with [{}]", failure.rank);
}

/// Says what happened to the ranks that still ran when the first one failed.
std::string others_text(const Supervisor& supervisor) {
  const int others = supervisor.ran_then();
  const int failed = supervisor.failures() - 1;
  if (others == 0) return {};
  const std::string text = plural(static_cast<std::uint64_t>(others), "other rank");
  if (!supervisor.went_on()) return fmt::format("; {} ended with it", text);
  return fmt::format("; {} went on, of which {} failed", text, failed == 0 ? "none" : std::to_string(failed));
}

std::string verdict(const RunLoop& loop, const RankEnding& failure) {
  std::string text = loop.end_text(failure) + others_text(loop.supervisor());
  const auto& words = loop.last_words(failure.rank);
  if (!words.empty()) text += "\n  last words: " + words;
  return text;
}

std::uint64_t oom_kills() {
  const auto memory = ipc::cgroup_memory();
  return memory ? memory->oom_kills : 0;
}

int report(const RunLoop& loop, std::uint64_t oom_kills_before) {
  const auto& failure = loop.supervisor().failure();
  if (!failure) return 0;
  Circumstances circumstances;
  circumstances.killed_for_memory = oom_kills() > oom_kills_before;
  circumstances.forwarded = loop.supervisor().forwarded();
  circumstances.without_prefix = loop.wrote_to_terminal(failure->rank);
  note(fmt::format("muster run: {}\n  hint: {}", verdict(loop, *failure), hint_for(*failure, circumstances)));
  return failure->ending.status();
}

std::string group_name(const RunOptions& options) {
  return options.group.empty() ? fmt::format("run-{}", ::getpid()) : options.group;
}

/// Starts all ranks or none.
Result<void> start_ranks(const RunOptions& options, const std::string& socket, RunLoop& loop) {
  const auto inherited = own_environment();
  const unsigned cores = allowed_cores();
  const int port = unused_port();
  const bool pass_stdin = ::isatty(STDIN_FILENO) == 0;
  for (int rank = 0; rank < options.ranks; ++rank) {
    const RankPlace place{rank, options.ranks, group_name(options), socket, port};
    const bool first = rank == 0;
    auto started = start_rank({options.command, rank_environment(inherited, place, cores), pass_stdin && first, first});
    if (!started) {
      loop.abandon();
      return started.error();
    }
    loop.add(std::move(*started));
  }
  return {};
}

}  // namespace

int run(const RunOptions& options) {
  // This connection stays open to the end, so a daemon that was started for this run doesn't end before the ranks
  // connect.
  ConnectOptions connect;
  connect.socket = options.socket;
  connect.memory = options.memory;
  connect.name = "muster run";
  auto client = Client::connect(connect);
  if (!client) return static_cast<int>(complain("run", client.error()));

  auto guardian = Guardian::start();
  if (!guardian) return static_cast<int>(complain("run", guardian.error()));
  auto signals = RunLoop::take_signals();
  if (!signals) return static_cast<int>(complain("run", signals.error()));
  const std::uint64_t oom_kills_before = oom_kills();
  RunLoop loop({options.ranks, options.grace, options.on_failure}, std::move(*guardian), std::move(*signals));
  const auto started = start_ranks(options, client->socket(), loop);
  if (!started) return static_cast<int>(complain("run", started.error()));
  loop.run_to_end();
  return report(loop, oom_kills_before);
}

}  // namespace muster::cli
