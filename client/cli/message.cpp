// Writes each message with one call, so that messages of several processes don't mix.
#include "message.hpp"

#include <unistd.h>

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
  std::string text = "muster";
  if (!command.empty()) text += " " + std::string(command);
  return text + ": ";
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
  std::string text = prefix_of(command) + std::string(name(error.code())) + ": " + error.message() + "\n";
  text += "  hint: " + (error.hint().empty() ? std::string(next_step(error.code())) : error.hint()) + "\n";
  write_stderr(text);
  return exit_status_of(error.code());
}

ExitStatus complain_usage(std::string_view command, std::string_view message) {
  std::string help = command.empty() ? "muster --help" : "muster " + std::string(command) + " --help";
  write_stderr(prefix_of(command) + std::string(message) + "\n  hint: see `" + help + "`\n");
  return ExitStatus::usage;
}

void note(std::string_view text) { write_stderr(std::string(text) + "\n"); }

}  // namespace muster::cli
