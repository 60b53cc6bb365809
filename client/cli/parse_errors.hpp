// What is wrong with a command line, as sentences: CLI11's own say neither what is allowed nor what may have been
// meant.
#pragma once

#include <CLI/CLI.hpp>

#include <span>
#include <string>

namespace muster::cli {

/// Of an error that the command's options met.
[[nodiscard]] std::string text_of(const CLI::ParseError& error, const CLI::App& command);
/// `--gruop`: with what may have been meant.
[[nodiscard]] std::string no_option(const std::string& word, const CLI::App& command);
/// `--json status`: in which order the words were meant. Empty if the first is no option, or none is a command.
[[nodiscard]] std::string options_before_command(std::span<char* const> words, const CLI::App& app);
/// `stauts`: what is no option, where no command was found. Empty if all are options.
[[nodiscard]] std::string no_command(std::span<char* const> words, const CLI::App& app);

}  // namespace muster::cli
