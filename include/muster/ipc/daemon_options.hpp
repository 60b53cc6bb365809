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
    bytes,  ///< of memory, "4GiB"
    count,  ///< a whole number
    seconds,
    mode,  ///< of a file, octal
    word,  ///< one of those that the help begins with, "debug, info [info]"
  };
  std::string_view flag;  ///< "--memory"; the environment has MUSTER_MEMORY, the file memory
  std::string_view placeholder;
  std::string_view help;  ///< ends with the default, "[600]"
  Kind kind = Kind::text;
  double low = 0;
  double high = 0;
  bool of_starter = false;  ///< of no use by hand
};

[[nodiscard]] std::span<const DaemonOption> daemon_options();
/// By its flag, which must be one.
[[nodiscard]] const DaemonOption& daemon_option(std::string_view flag);

/// "MUSTER_MEMORY" for "--memory"
[[nodiscard]] std::string environment_name(std::string_view flag);

/// A variable that nobody reads, and the one of Muster's that was meant by it.
struct MistypedVariable {
  std::string given;
  std::string meant;
};
/// Among this process's: those that begin with MUSTER_ and are nearly one of Muster's.
[[nodiscard]] std::vector<MistypedVariable> mistyped_variables();

/// The value as a number: bytes, a count, seconds, a mode, or which of the words it is, from 0; of a text 0.
/// Invalid if the option doesn't take it.
[[nodiscard]] Result<double> parse_daemon_option(const DaemonOption& option, std::string_view text);

}  // namespace muster::ipc
