// What `muster` writes for people on stderr: what happened, with which values, and the next step.
#pragma once

#include <string>
#include <string_view>

#include <muster/result.hpp>

#include "exit_status.hpp"

namespace muster::cli {

/// Prints `muster COMMAND: message` and, on the next line, the hint. Returns the exit status for the error's code.
ExitStatus complain(std::string_view command, const Error& error);
/// The same for a misuse of the command line.
ExitStatus complain_usage(std::string_view command, std::string_view message);
/// Prints one line on stderr, so that stdout has only data.
void note(std::string_view text);

}  // namespace muster::cli
