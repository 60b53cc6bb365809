// The loop around the supervisor: waits for the ranks' output, for their ends and for our signals, and acts on them.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "guardian.hpp"
#include "line_prefixer.hpp"
#include "output_queue.hpp"
#include "rank_process.hpp"
#include "supervisor.hpp"
#include "terminal_line.hpp"

namespace muster::cli {

class RunLoop {
 public:
  RunLoop(Supervisor supervisor, Guardian guardian, ipc::Fd signals);

  /// From here on the signals that `muster run` handles come through the returned descriptor.
  [[nodiscard]] static Result<ipc::Fd> take_signals();

  void add(RankProcess process);
  /// Ends the ranks that run already, because another rank could not be started.
  void abandon();
  /// Runs until all processes of all ranks have ended and all output is written.
  void run_to_end();

  [[nodiscard]] const Supervisor& supervisor() const { return supervisor_; }
  /// The last line that the rank wrote to stderr, or to its terminal if that takes all of its output.
  [[nodiscard]] const std::string& last_words(int rank) const {
    return ranks_[static_cast<std::size_t>(rank)]->last_words;
  }
  /// Whether the rank's stderr is printed without a prefix.
  [[nodiscard]] bool wrote_to_terminal(int rank) const;
  /// "rank 2 (pid 4711) exited with code 3"
  [[nodiscard]] std::string end_text(const RankEnding& end) const;

 private:
  struct Stream {
    ipc::Fd fd;
    int target;
    bool terminal;
    LinePrefixer prefixer;  ///< unused with a terminal, which gets the bytes as they are
  };
  struct Rank {
    RankProcess process;
    Stream output;
    Stream error;
    bool ended = false;
    bool stopped = false;
    std::string last_words;
  };
  void wait_for_events();
  void read_signals();
  void handle_signal(int signal);
  void stop_and_go_on();
  void reap();
  void look_for_stopped();
  void tell_of_failures(const std::vector<RankEnding>& endings);
  void look_for_empty_groups();
  void read_stream(Rank& rank, Stream& stream);
  void take_from_pipe(Rank& rank, Stream& stream, std::string_view bytes);
  void take_from_terminal(Rank& rank, Stream& stream, std::string_view bytes);
  void push_lines(int target, std::string lines);
  [[nodiscard]] TerminalLine& line_on(int target);
  bool follow_sizes();
  void write_output();
  void send(const Supervisor::Actions& actions);
  [[nodiscard]] int poll_timeout_ms() const;
  [[nodiscard]] bool streams_open() const;
  [[nodiscard]] pid_t pid(int rank) const { return ranks_[static_cast<std::size_t>(rank)]->process.pid; }

  Supervisor supervisor_;
  Guardian guardian_;
  ipc::Fd signals_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  OutputQueue queue_;
  bool told_of_stopped_ = false;
  bool one_terminal_;                  ///< whether our stdout and stderr are one terminal
  std::array<TerminalLine, 2> lines_;  ///< of rank 0: on stdout's terminal and on stderr's
};

}  // namespace muster::cli
