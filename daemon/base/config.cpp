#include "base/config.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <toml++/toml.h>
#include <vector>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/cgroup.hpp>

#include "base/starter.hpp"
#include "base/version.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// One setting, under all of its names.
struct Setting {
  std::string flag;  ///< "--memory"; the environment has MUSTER_MEMORY, the file memory
  std::string placeholder;
  std::string help;
  std::function<Result<void>(Config&, const std::string&)> apply;
};

std::string environment_name(const std::string& flag) {
  std::string name = "MUSTER_";
  for (const char c : flag.substr(2))
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::string file_key(const std::string& flag) {
  std::string key = flag.substr(2);
  for (char& c : key)
    if (c == '-') c = '_';
  return key;
}

template <class Number>
Result<Number> parse_number(const std::string& text, Number low, Number high) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = std::is_floating_point_v<Number> || value == std::floor(value);
  if (error != std::errc{} || end != text.data() + text.size() || !whole || !(value >= static_cast<double>(low)) ||
      !(value <= static_cast<double>(high)))
    return Error(Code::invalid,
                 "'" + text + "' is not a number from " + std::to_string(low) + " to " + std::to_string(high));
  return static_cast<Number>(value);
}

template <class Member, class Number>
auto number(Member member, Number low, Number high) {
  return [=](Config& config, const std::string& text) -> Result<void> {
    auto parsed = parse_number<Number>(text, low, high);
    if (!parsed) return parsed.error();
    config.*member = static_cast<std::remove_reference_t<decltype(config.*member)>>(*parsed);
    return {};
  };
}

/// Less than this has no room for a segment of each of a few processes.
constexpr std::uint64_t memory_bytes_min = 4 << 20;

template <class Member>
auto memory(Member member) {
  return [=](Config& config, const std::string& text) -> Result<void> {
    auto parsed = muster::ipc::parse_bytes(text);
    if (!parsed) return parsed.error();
    if (*parsed < memory_bytes_min)
      return Error(Code::invalid, "'" + text + "' is too little memory", "give 4MiB at least");
    config.*member = *parsed;
    return {};
  };
}

Result<void> set_socket_mode(Config& config, const std::string& text) {
  unsigned mode = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), mode, 8);
  if (error != std::errc{} || end != text.data() + text.size() || mode > 0777)
    return Error(Code::invalid, "'" + text + "' is not a file mode", "use octal digits, for instance 0660");
  config.socket_mode = mode;
  return {};
}

Result<void> set_log_format(Config& config, const std::string& text) {
  if (text != "text" && text != "json") return Error(Code::invalid, "log format '" + text + "'", "use text or json");
  config.log_format = text == "json" ? LogFormat::json : LogFormat::text;
  return {};
}

Result<void> set_log_level(Config& config, const std::string& text) {
  auto level = parse_log_level(text);
  if (!level) return level.error();
  config.log_level = *level;
  return {};
}

Result<void> set_socket(Config& config, const std::string& text) {
  config.socket = text;
  return {};
}

std::vector<Setting> settings() {
  constexpr double year_s = 366.0 * 24 * 3600;
  return {
      {"--socket", "PATH", "where clients connect (default: $XDG_RUNTIME_DIR/muster/musterd.sock and kin)", set_socket},
      {"--memory", "BYTES", "budget for all that the store holds, e.g. 4GiB (default: 30 % of the machine's)",
       memory(&Config::memory_bytes)},
      {"--user-memory", "BYTES", "share that one user may hold (default: all)", memory(&Config::user_memory_bytes)},
      {"--client-memory", "BYTES", "share that one process may hold (default: all)",
       memory(&Config::client_memory_bytes)},
      {"--objects-max", "N", "objects that one process may have made (default: 1000000)",
       number(&Config::objects_max, std::uint64_t{1}, std::uint64_t{1} << 31)},
      {"--clients-max", "N", "connections (default: 4096)", number(&Config::clients_max, 1, 100'000)},
      {"--in-flight-max", "N", "ops in flight of one process in one group before it has to wait (default: 1024)",
       number(&Config::in_flight_max, 1, 1 << 20)},
      {"--lanes", "N", "threads that reduce (default: one a core)", number(&Config::lanes, 1, 1024)},
      {"--idle-exit", "SECONDS", "end after this long without a client (default: never)",
       number(&Config::idle_exit_s, 0.0, year_s)},
      {"--pickle-lease", "SECONDS", "how long a pickled ref keeps its object (default: 600)",
       number(&Config::pickle_lease_s, 0.0, year_s)},
      {"--socket-mode", "MODE", "permissions of the socket, octal (default: 0600)", set_socket_mode},
      {"--ready-fd", "FD",
       "write 0 to this descriptor when clients can connect, else the exit status, why they can't and what to do",
       number(&Config::ready_fd, 0, 1 << 20)},
      {"--log-format", "text|json", "form of the log lines on standard error (default: text)", set_log_format},
      {"--log-level", "LEVEL", "debug, info, warning or error (default: info)", set_log_level},
  };
}

Result<void> apply(Config& config, const Setting& setting, const std::string& source, const std::string& value) {
  auto applied = setting.apply(config, value);
  if (applied) return {};
  const auto& error = applied.error();
  return Error(error.code(), source + ": " + error.message(), error.hint());
}

/// Empty: neither a text nor a number.
std::string scalar_text(const toml::node& node) {
  if (auto text = node.value<std::string>()) return *text;
  if (auto integer = node.value_exact<std::int64_t>()) return std::to_string(*integer);
  if (auto real = node.value<double>()) return std::to_string(*real);
  return {};
}

Result<void> apply_file(Config& config, const std::vector<Setting>& all, const std::string& path) {
  std::error_code unknown;
  if (std::filesystem::is_directory(path, unknown))
    return Error(Code::invalid, "config file " + path + ": it is a directory", "name a TOML file");
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    return Error(Code::invalid, "config file " + path + ": " + std::string(error.description()) + " in line " +
                                    std::to_string(error.source().begin.line));
  }
  for (const auto& [key, node] : table) {
    const Setting* found = nullptr;
    for (const auto& setting : all)
      if (file_key(setting.flag) == std::string_view(key)) found = &setting;
    if (!found)
      return Error(Code::invalid, "config file " + path + ": unknown key '" + std::string(std::string_view(key)) + "'",
                   "the keys are the long flags with _ for -");
    const std::string text = scalar_text(node);
    if (text.empty())
      return Error(Code::invalid, "config file " + path + ": the value of '" + file_key(found->flag) + "'",
                   "give a text or a number");
    if (auto applied = apply(config, *found, path, text); !applied) return applied.error();
  }
  return {};
}

Result<Config> merge(const std::vector<Setting>& all, const std::vector<std::string>& flags, std::string file) {
  Config config;
  if (const char* from_environment = std::getenv("MUSTER_CONFIG"); file.empty() && from_environment)
    file = from_environment;
  if (!file.empty())
    if (auto applied = apply_file(config, all, file); !applied) return applied.error();
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto variable = environment_name(all[i].flag);
    if (const char* value = std::getenv(variable.c_str()); value && *value)
      if (auto applied = apply(config, all[i], variable, value); !applied) return applied.error();
  }
  for (std::size_t i = 0; i < all.size(); ++i)
    if (!flags[i].empty())
      if (auto applied = apply(config, all[i], all[i].flag, flags[i]); !applied) return applied.error();
  return config;
}

/// Who waits there is told of what is wrong with the other settings.
int ready_fd(const std::vector<Setting>& all, const std::vector<std::string>& flags) {
  Config config;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i].flag == "--ready-fd" && !flags[i].empty()) static_cast<void>(all[i].apply(config, flags[i]));
  return config.ready_fd;
}

}  // namespace

std::uint64_t default_memory_bytes() { return muster::ipc::usable_memory_bytes() / 10 * 3; }

std::variant<Config, int> parse_command_line(int argc, const char* const* argv) {
  constexpr int usage_error = static_cast<int>(ExitStatus::usage);
  CLI::App app{
      "musterd holds arrays in memory that processes share, and runs their collectives.\n"
      "Each option can also be given in the environment (MUSTER_MEMORY for --memory) and in a TOML file (memory = "
      "\"4GiB\")."};
  app.footer(
      "Ends with 0 when it is told to, 1 if it failed, 2 on wrong usage, 3 if another musterd serves the socket.");
  app.set_version_flag("--version", std::string("musterd ") + version);
  std::string file;
  app.add_option("--config", file, "TOML file with these options")->type_name("FILE");
  const auto all = settings();
  std::vector<std::string> flags(all.size());
  for (std::size_t i = 0; i < all.size(); ++i)
    app.add_option(all[i].flag, flags[i], all[i].help)->type_name(all[i].placeholder);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : usage_error;
  }
  auto config = merge(all, flags, file);
  if (config) return *config;
  tell_failed(ready_fd(all, flags), ExitStatus::usage, config.error());
  return usage_error;
}

}  // namespace musterd
