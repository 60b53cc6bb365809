// Says in sentences what is wrong with a command line. CLI11's own messages say neither what is allowed nor what the
// user may have meant.
#pragma once

#include <CLI/CLI.hpp>

#include <span>
#include <string>

namespace muster::cli {

/// The text for an error in the options of `command`.
[[nodiscard]] std::string text_of(const CLI::ParseError& error, const CLI::App& command);
/// For `--gruop`: says that there is no such option, and which one the user may have meant.
[[nodiscard]] std::string no_option(const std::string& word, const CLI::App& command);
/// For `--json status`: says in which order the words were meant. Empty if the first is not an option, or none is a
/// command.
[[nodiscard]] std::string options_before_command(std::span<char* const> words, const CLI::App& app);
/// For `stauts`: where no command was found, names the first word that is not an option. Empty if all are options.
[[nodiscard]] std::string no_command(std::span<char* const> words, const CLI::App& app);

}  // namespace muster::cli
