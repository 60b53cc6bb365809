// Calls fork and exec itself, as posix_spawn can't set a parent-death signal. Between the two it makes only
// async-signal-safe calls. _Fork runs no atfork handlers: the child becomes another program, not a second client.
#include "rank_process.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>

#include <fmt/format.h>

#include "pseudo_terminal.hpp"

namespace muster::cli {

namespace {

struct Pipe {
  ipc::Fd read;
  ipc::Fd write;
};

Result<Pipe> open_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return ipc::system_error(Code::failed, "can't make a pipe for a rank", errno);
  return Pipe{ipc::Fd(ends[0]), ipc::Fd(ends[1])};
}

/// Both ends of one of the rank's streams.
struct Channel {
  RankStream ours;
  ipc::Fd theirs;
};

Result<Channel> open_channel(bool takes_terminal, int our_stream) {
  if (takes_terminal && ::isatty(our_stream) == 1) {
    auto terminal = open_pseudo_terminal(our_stream);
    if (terminal) return Channel{{std::move(terminal->ours), true}, std::move(terminal->theirs)};
  }
  auto pipe = open_pipe();
  if (!pipe) return pipe.error();
  return Channel{{std::move(pipe->read), false}, std::move(pipe->write)};
}

struct Channels {
  Channel output;
  Channel error;  ///< empty if it is the same as output
};

Result<Channels> open_channels(bool takes_terminal) {
  auto output = open_channel(takes_terminal, STDOUT_FILENO);
  if (!output) return output.error();
  if (output->ours.terminal && same_terminal(STDOUT_FILENO, STDERR_FILENO)) return Channels{std::move(*output), {}};
  auto error = open_channel(takes_terminal, STDERR_FILENO);
  if (!error) return error.error();
  return Channels{std::move(*output), std::move(*error)};
}

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (const auto& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

struct ChildSetup {
  pid_t parent;
  int input;  ///< -1: the parent's stdin
  int output;
  int error;
  int report;  ///< exec closes it; if exec fails, the child writes errno to it
};

[[noreturn]] void become(const ChildSetup& setup, char* const* arguments, char* const* environment) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != setup.parent) ::_exit(127);  // the parent died before the line above
  if (setup.input >= 0) ::dup2(setup.input, STDIN_FILENO);
  ::dup2(setup.output, STDOUT_FILENO);
  ::dup2(setup.error, STDERR_FILENO);
  ::signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execvpe(arguments[0], arguments, environment);
  const int error_number = errno;
  [[maybe_unused]] const auto written = ::write(setup.report, &error_number, sizeof error_number);
  ::_exit(127);
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

Error exec_error(const std::vector<std::string>& command, int error_number) {
  namespace fs = std::filesystem;
  const std::string& program = command.front();
  std::error_code unknown;
  const bool is_here = fs::exists(program, unknown);
  const std::string message = fmt::format("can't execute '{}'", program);
  if (fs::is_directory(program, unknown))
    return Error(Code::invalid, message + ": it is a folder",
                 "name the program in it, for instance python " + (fs::path(program) / "train.py").string());
  if (!is_here && program.find_first_of(" \t") != std::string::npos)
    return Error(Code::invalid, message + ": it is one word, and no file has that name",
                 "leave out the quotes round the whole command: the program and each argument are words of their own");
  std::string hint = "try to run it by itself first";
  if (program.ends_with(".py") && (is_here || error_number == ENOENT))
    hint = (is_here ? "name the interpreter, too: python "
                    : "there is no such file here; its interpreter goes first: python ") +
           joined(command);
  else if (error_number == ENOENT && is_here && program.find('/') == std::string::npos)
    hint = "it is in this folder, which is not on PATH: ./" + joined(command);
  else if (error_number == ENOENT) hint = "is it installed, and on PATH? Give its full path otherwise";
  else if (error_number == EACCES) hint = "make it executable: chmod +x " + program;
  return ipc::system_error(Code::invalid, message, error_number, std::move(hint));
}

}  // namespace

Result<RankProcess> start_rank(const RankCommand& command) {
  auto channels = open_channels(command.takes_terminal);
  if (!channels) return channels.error();
  auto& [output, error] = *channels;
  auto report = open_pipe();
  if (!report) return report.error();
  const ipc::Fd null(command.takes_stdin ? -1 : ::open("/dev/null", O_RDONLY | O_CLOEXEC));

  const auto arguments = pointers_to(command.arguments);
  const auto environment = pointers_to(command.environment);
  const int output_end = output.theirs.get();
  const int error_end = error.theirs ? error.theirs.get() : output_end;
  const ChildSetup setup{::getpid(), null.get(), output_end, error_end, report->write.get()};
  const pid_t pid = ::_Fork();
  if (pid < 0)
    return ipc::system_error(Code::failed, "can't start a process", errno, "raise the limit of processes: ulimit -u");
  if (pid == 0) become(setup, arguments.data(), environment.data());

  ::setpgid(pid, pid);  // in parent and child, as either may run first
  report->write.reset();
  int error_number = 0;
  if (::read(report->read.get(), &error_number, sizeof error_number) == sizeof error_number) {
    ::waitpid(pid, nullptr, 0);
    return exec_error(command.arguments, error_number);
  }
  for (const auto* channel : {&output, &error})
    if (channel->ours.fd) ::fcntl(channel->ours.fd.get(), F_SETFL, O_NONBLOCK);
  return RankProcess{pid, std::move(output.ours), std::move(error.ours)};
}

}  // namespace muster::cli
