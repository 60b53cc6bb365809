// The daemon's options, and which values they take: one table for `musterd` and for `muster start`.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <muster/result.hpp>

namespace muster::ipc {

struct DaemonOption {
  enum class Kind {
    text,   ///< anything
    bytes,  ///< an amount of memory, "4GiB"
    count,  ///< a whole number
    seconds,
    mode,   ///< a file's mode, octal
    share,  ///< an amount of memory, or a part of all there is: "4GiB", "50%"
    word,   ///< one of the words that the help begins with, "debug, info [info]"
  };
  std::string_view flag;  ///< "--memory"; the environment has MUSTER_MEMORY, the file memory
  std::string_view placeholder;
  std::string_view help;  ///< ends with the default, "[600]"
  Kind kind = Kind::text;
  double low = 0;
  double high = 0;
  bool of_starter = false;  ///< for programs that start the daemon, not for people
};

[[nodiscard]] std::span<const DaemonOption> daemon_options();
/// The option with this flag, which must exist.
[[nodiscard]] const DaemonOption& daemon_option(std::string_view flag);

/// "MUSTER_MEMORY" for "--memory"
[[nodiscard]] std::string environment_name(std::string_view flag);

/// A variable that nobody reads, and the variable of Muster's that was probably meant.
struct MistypedVariable {
  std::string given;
  std::string meant;
};
/// The variables of this process that begin with MUSTER_ and are nearly one of Muster's.
[[nodiscard]] std::vector<MistypedVariable> mistyped_variables();

/// The value as a number: bytes, a count, seconds, a mode, a share from 0 to 1 or else bytes, or the index of the word.
/// 0 for a text. Invalid if the option doesn't take it.
[[nodiscard]] Result<double> parse_daemon_option(const DaemonOption& option, std::string_view text);

}  // namespace muster::ipc
