#include <muster/ipc/daemon_options.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/text.hpp>
#include <muster/ipc/time_limits.hpp>

namespace muster::ipc {

namespace {

using enum DaemonOption::Kind;

constexpr double seconds_max = std::chrono::duration<double>(daemon_time_max).count();
/// With less memory there is no room for a segment for each of a few processes.
constexpr double memory_bytes_min = 4 << 20;
constexpr double memory_bytes_max = 0x1p50;
/// Segments of a GPU are multiples of some MiB.
constexpr std::uint64_t gpu_memory_bytes_min = 64 << 20;
constexpr double gpu_timeout_s_min = 1;

constexpr std::array options{
    DaemonOption{"--socket", "PATH", "where clients connect [$XDG_RUNTIME_DIR/muster/musterd.sock and kin]"},
    DaemonOption{"--memory", "SIZE", "budget for all that the store holds, for instance 4GiB [30 % of the machine's]",
                 bytes, memory_bytes_min, memory_bytes_max},
    DaemonOption{"--user-memory", "SIZE", "share that one user may hold [all]", bytes, memory_bytes_min,
                 memory_bytes_max},
    DaemonOption{"--client-memory", "SIZE", "share that one process may hold [all]", bytes, memory_bytes_min,
                 memory_bytes_max},
    DaemonOption{"--gpu-memory", "SIZE", "budget on each GPU, for instance 8GiB or 50%; 0: use no GPU [30%]", share},
    DaemonOption{"--gpu-timeout", "SECONDS", "how long the GPUs' driver may take to say what there is [15]", seconds,
                 gpu_timeout_s_min, seconds_max},
    DaemonOption{"--objects-max", "N", "objects that one process may have made [1000000]", count, 1, 0x1p31},
    DaemonOption{"--maps-max", "N", "memory mappings that clients may cost the daemon [vm.max_map_count less 8192]",
                 count, 1, 0x1p31},
    DaemonOption{"--clients-max", "N", "connections [4096]", count, 1, 100'000},
    DaemonOption{"--in-flight-max", "N", "ops in flight of one process in one group before it has to wait [1024]",
                 count, 1, 1 << 20},
    DaemonOption{"--lanes", "N", "threads that reduce [one a core]", count, 1, 1024},
    DaemonOption{"--idle-exit", "SECONDS", "end after this long without a client [never]", seconds, 0, seconds_max},
    DaemonOption{"--pickle-lease", "SECONDS", "how long a pickled ref keeps its object [600]", seconds, 0, seconds_max},
    DaemonOption{"--nccl-so", "PATH",
                 "NCCL's library, and no other [the nvidia-nccl wheel of the environment, else the system's]"},
    DaemonOption{"--nccl-wheel", "PATH", "NCCL's library in the Python environment of the starter", text, 0, 0, true},
    DaemonOption{"--socket-mode", "MODE", "permissions of the socket, octal [0600]", mode, 0, 0777},
    DaemonOption{"--ready-fd", "FD",
                 "write 0 to this descriptor when clients can connect, else the exit status, why they can't and what "
                 "to do",
                 count, 0, 1 << 20, true},
    DaemonOption{"--log-format", "FORMAT", "text, json [text]", word},
    DaemonOption{"--log-level", "LEVEL", "debug, info, warning, error [info]", word},
};

Error not_a_number(std::string_view text, const DaemonOption& option) {
  return {Code::invalid,
          fmt::format("'{}' is not a {} from {} to {}", text, option.kind == count ? "whole number" : "number",
                      std::llround(option.low), std::llround(option.high))};
}

Result<double> parse_number(const DaemonOption& option, std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool fits = option.kind != count || value == std::floor(value);
  if (error != std::errc{} || end != text.data() + text.size() || !fits || !(value >= option.low) ||
      !(value <= option.high))
    return not_a_number(text, option);
  return value;
}

Result<double> parse_memory(const DaemonOption& option, std::string_view text) {
  const auto parsed = parse_bytes(text);
  if (!parsed) return parsed.error();
  const auto value = static_cast<double>(*parsed);
  if (value < option.low)
    return Error(Code::invalid, fmt::format("'{}' is too little memory", text), "give 4MiB at least");
  return value;
}

Result<double> parse_share(std::string_view text) {
  if (text == "0") return 0.0;
  if (!text.ends_with('%')) {
    const auto parsed = parse_bytes(text);
    if (!parsed) return Error(Code::invalid, parsed.error().message(), "give a size like 8GiB, a share like 50%, or 0");
    if (*parsed < gpu_memory_bytes_min)
      return Error(Code::invalid, fmt::format("'{}' is too little memory", text), "give 64MiB at least, or 0 for none");
    return static_cast<double>(*parsed);
  }
  const std::string_view number = text.substr(0, text.size() - 1);
  double percent = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), percent);
  if (error != std::errc{} || end != number.data() + number.size() || !(percent > 0) || !(percent <= 100))
    return Error(Code::invalid, fmt::format("'{}' is not a share of a GPU's memory", text), "give 1% to 100%");
  return percent / 100;
}

Result<double> parse_mode(const DaemonOption& option, std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 8);
  if (error != std::errc{} || end != text.data() + text.size() || value > option.high)
    return Error(Code::invalid, fmt::format("'{}' is not a file mode", text), "use octal digits, for instance 0660");
  return value;
}

Result<double> parse_word(const DaemonOption& option, std::string_view text) {
  const std::string_view words = option.help.substr(0, option.help.find(" ["));
  double index = 0;
  for (std::size_t at = 0; at < words.size(); ++index) {
    const auto end = std::min(words.find(", ", at), words.size());
    if (words.substr(at, end - at) == text) return index;
    at = end + 2;
  }
  return Error(Code::invalid, fmt::format("'{}' is none of: {}", text, words));
}

}  // namespace

std::span<const DaemonOption> daemon_options() { return options; }

const DaemonOption& daemon_option(std::string_view flag) {
  return *std::find_if(options.begin(), options.end(), [&](const auto& one) { return one.flag == flag; });
}

std::string environment_name(std::string_view flag) {
  std::string name = "MUSTER_";
  for (const char c : flag.substr(2))
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::vector<MistypedVariable> mistyped_variables() {
  constexpr std::string_view prefix = "MUSTER_";
  // Without the prefix, which all have in common.
  std::vector<std::string> known{"CONFIG", "DAEMON", "FAILPOINTS", "FAILPOINT_LOG",
                                 "GROUP",  "RANK",   "WORLD_SIZE", "LOCAL_RANK"};
  for (const auto& option : options) known.push_back(environment_name(option.flag).substr(prefix.size()));
  std::vector<MistypedVariable> found;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with(prefix)) continue;
    const std::string name(text.substr(prefix.size(), text.find('=') - prefix.size()));
    if (std::ranges::find(known, name) != known.end()) continue;
    if (const auto meant = nearest(name, known); !meant.empty())
      found.push_back({std::string(prefix) + name, std::string(prefix) + meant});
  }
  return found;
}

Result<double> parse_daemon_option(const DaemonOption& option, std::string_view text) {
  switch (option.kind) {
    case bytes: return parse_memory(option, text);
    case count:
    case seconds: return parse_number(option, text);
    case mode: return parse_mode(option, text);
    case share: return parse_share(text);
    case word: return parse_word(option, text);
    case DaemonOption::Kind::text: break;
  }
  return 0.0;
}

}  // namespace muster::ipc
