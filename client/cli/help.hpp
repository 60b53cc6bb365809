// The words of --help that are more than a list of options: the first steps, examples, and the keys of --json.
#pragma once

#include <string>
#include <string_view>

namespace muster::cli {

/// What bare `muster` prints.
[[nodiscard]] std::string main_help();
/// What a command's help ends with.
[[nodiscard]] std::string help_footer(std::string_view command);

}  // namespace muster::cli
