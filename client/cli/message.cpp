// Writes each message with one call, so that messages of several processes don't mix.
#include "message.hpp"

#include <unistd.h>

#include <fmt/format.h>

namespace muster::cli {

namespace {

void write_stderr(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, rest.data(), rest.size());
    if (written <= 0) return;  // nobody reads it
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

std::string prefix_of(std::string_view command) {
  return command.empty() ? "muster: " : fmt::format("muster {}: ", command);
}

/// For errors that come without a hint: every message gives its reader a next step.
std::string_view next_step(Code code) {
  switch (code) {
    case Code::daemon_unavailable:
    case Code::daemon_restarted: return "start one with `muster start`; `muster doctor` says what is in the way";
    case Code::timeout:
    case Code::peer_lost: return "`muster groups` shows which ranks are there";
    case Code::out_of_memory:
    case Code::quota_exceeded: return "`muster ls` shows who holds what; a daemon takes more with --memory";
    case Code::denied: return "see `muster doctor`; daemon and files may be another user's";
    default: return "`muster status` and `muster doctor` show what the daemon and this machine are like";
  }
}

}  // namespace

ExitStatus complain(std::string_view command, const Error& error) {
  const std::string_view hint = error.hint().empty() ? next_step(error.code()) : error.hint();
  write_stderr(fmt::format("{}{}: {}\n  hint: {}\n", prefix_of(command), name(error.code()), error.message(), hint));
  return exit_status_of(error.code());
}

ExitStatus complain_usage(std::string_view command, std::string_view message) {
  const std::string help = command.empty() ? "muster --help" : fmt::format("muster {} --help", command);
  write_stderr(fmt::format("{}{}\n  hint: see `{}`\n", prefix_of(command), message, help));
  return ExitStatus::usage;
}

void note(std::string_view text) { write_stderr(std::string(text) + "\n"); }

}  // namespace muster::cli
