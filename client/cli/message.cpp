// Each message is one write, so that messages of several processes don't mix.
#include "message.hpp"

#include <unistd.h>

namespace muster::cli {

namespace {

void write_stderr(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, rest.data(), rest.size());
    if (written <= 0) return;  // nobody to tell
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

std::string prefix_of(std::string_view command) {
  std::string text = "muster";
  if (!command.empty()) text += " " + std::string(command);
  return text + ": ";
}

}  // namespace

ExitStatus complain(std::string_view command, const Error& error) {
  std::string text = prefix_of(command) + std::string(name(error.code())) + ": " + error.message() + "\n";
  if (!error.hint().empty()) text += "  hint: " + error.hint() + "\n";
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
