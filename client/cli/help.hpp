// The texts of --help that are more than a list of options: the first steps, examples, and the keys of --json.
#pragma once

#include <string>
#include <string_view>

namespace muster::cli {

/// The text that `muster` prints without a command.
[[nodiscard]] std::string main_help();
/// The text at the end of a command's help.
[[nodiscard]] std::string help_footer(std::string_view command);

}  // namespace muster::cli
