#include "base/config.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <toml++/toml.h>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/cgroup.hpp>
#include <muster/ipc/daemon_options.hpp>
#include <muster/ipc/text.hpp>

#include "base/starter.hpp"
#include "base/version.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;

namespace {

std::string file_key(const std::string& flag) {
  std::string key = flag.substr(2);
  for (char& c : key)
    if (c == '-') c = '_';
  return key;
}

using Setter = std::function<void(Config&, double, const std::string&)>;

template <class Member>
Setter number(Member member) {
  return [member](Config& config, double value, const std::string&) {
    config.*member = static_cast<std::remove_reference_t<decltype(config.*member)>>(value);
  };
}

template <class Enumeration>
Setter word(Enumeration Config::*member) {
  return [member](Config& config, double value, const std::string&) {
    config.*member = static_cast<Enumeration>(static_cast<int>(value));
  };
}

/// An option, and where its value goes.
struct Setting {
  std::string flag;
  const muster::ipc::DaemonOption& option;
  Setter set;
  [[nodiscard]] Result<void> apply(Config& config, const std::string& text) const {
    const auto value = muster::ipc::parse_daemon_option(option, text);
    if (!value) return value.error();
    set(config, *value, text);
    return {};
  }
};

std::map<std::string_view, Setter> setters() {
  return {
      {"--socket", [](Config& config, double, const std::string& text) { config.socket = text; }},
      {"--memory", number(&Config::memory_bytes)},
      {"--user-memory", number(&Config::user_memory_bytes)},
      {"--client-memory", number(&Config::client_memory_bytes)},
      {"--gpu-memory", number(&Config::gpu_memory)},
      {"--gpu-timeout", number(&Config::gpu_timeout_s)},
      {"--objects-max", number(&Config::objects_max)},
      {"--maps-max", number(&Config::maps_max)},
      {"--clients-max", number(&Config::clients_max)},
      {"--in-flight-max", number(&Config::in_flight_max)},
      {"--lanes", number(&Config::lanes)},
      {"--idle-exit", number(&Config::idle_exit_s)},
      {"--pickle-lease", number(&Config::pickle_lease_s)},
      {"--nccl-so", [](Config& config, double, const std::string& text) { config.nccl_so = text; }},
      {"--nccl-wheel", [](Config& config, double, const std::string& text) { config.nccl_wheel = text; }},
      {"--socket-mode", number(&Config::socket_mode)},
      {"--ready-fd", number(&Config::ready_fd)},
      {"--log-format", word(&Config::log_format)},
      {"--log-level", word(&Config::log_level)},
  };
}

std::vector<Setting> settings() {
  const auto all = setters();
  std::vector<Setting> found;
  for (const auto& option : muster::ipc::daemon_options())
    found.push_back({std::string(option.flag), option, all.at(option.flag)});
  return found;
}

Result<void> apply(Config& config, const Setting& setting, const std::string& source, const std::string& value) {
  auto applied = setting.apply(config, value);
  if (applied) return {};
  const auto& error = applied.error();
  return Error(error.code(), fmt::format("{}: {}", source, error.message()), error.hint());
}

/// Empty if the value is neither a text nor a number.
std::string scalar_text(const toml::node& node) {
  if (auto text = node.value<std::string>()) return *text;
  if (auto integer = node.value_exact<std::int64_t>()) return std::to_string(*integer);
  if (auto real = node.value<double>()) return std::to_string(*real);
  return {};
}

Result<void> apply_file(Config& config, const std::vector<Setting>& all, const std::string& path) {
  std::error_code unknown;
  if (std::filesystem::is_directory(path, unknown))
    return Error(Code::invalid, fmt::format("config file {}: it is a directory", path), "name a TOML file");
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    const std::string what = fmt::format("config file {}: {}", path, error.description());
    const auto line = error.source().begin.line;
    if (line == 0) return Error(Code::invalid, what);  // it can't be read at all
    return Error(Code::invalid, fmt::format("{} in line {}", what, line),
                 "give lines of KEY = VALUE, texts and sizes in quotes: memory = \"4GiB\"");
  }
  for (const auto& [key, node] : table) {
    const Setting* found = nullptr;
    for (const auto& setting : all)
      if (file_key(setting.flag) == std::string_view(key)) found = &setting;
    if (!found)
      return Error(Code::invalid, fmt::format("config file {}: unknown key '{}'", path, std::string_view(key)),
                   "the keys are the long flags with _ for -");
    const std::string text = scalar_text(node);
    if (text.empty())
      return Error(
          Code::invalid,
          fmt::format("config file {}: the value of '{}' is neither a text nor a number", path, file_key(found->flag)),
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
    const auto variable = muster::ipc::environment_name(all[i].flag);
    if (const char* value = std::getenv(variable.c_str()); value && *value)
      if (auto applied = apply(config, all[i], variable, value); !applied) return applied.error();
  }
  for (std::size_t i = 0; i < all.size(); ++i)
    if (!flags[i].empty())
      if (auto applied = apply(config, all[i], all[i].flag, flags[i]); !applied) return applied.error();
  return config;
}

/// Says what is wrong with musterd's words. CLI11's own text names neither what is allowed nor what may be meant.
Error usage_error_of(const CLI::ParseError& error, const CLI::App& app, const std::vector<Setting>& all) {
  constexpr const char* hint = "see `musterd --help`";
  const std::string text = error.what();
  if (const auto words = app.remaining(); dynamic_cast<const CLI::ExtrasError*>(&error) && !words.empty()) {
    const std::string word = words.front().substr(0, words.front().find('='));
    if (!word.starts_with('-'))
      return Error(Code::invalid, fmt::format("'{}' is not an option, and musterd takes nothing else", word), hint);
    std::vector<std::string> flags{"--config", "--version", "--help"};
    for (const auto& setting : all) flags.push_back(setting.flag);
    const auto meant = muster::ipc::nearest(word, flags);
    return Error(
        Code::invalid,
        fmt::format("there is no option {}{}", word, meant.empty() ? "" : fmt::format("; did you mean {}?", meant)),
        hint);
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error)) {
    const auto begin = std::min(text.find("--"), text.size());
    const auto flag = text.substr(begin, text.find_first_of(": ,", begin) - begin);
    const bool missing = text.find("missing") != std::string::npos;
    return Error(Code::invalid, flag + (missing ? " needs a value" : " takes one value, and can be given once"), hint);
  }
  return Error(Code::invalid, text, hint);
}

/// The descriptor is needed even if other settings are wrong: the starter waits there to be told so.
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
  bool gpu_probe = false;
  app.add_flag("--gpu-probe", gpu_probe)->group("");  // not for people
  bool gpu_probe_driver = false;
  app.add_flag("--gpu-probe-driver", gpu_probe_driver)->group("");
  std::string gpu_uuid;
  app.add_option("--gpu-uuid", gpu_uuid)->group("");
  std::optional<int> gpu_worker;
  app.add_option("--gpu-worker", gpu_worker)->group("");  // the same
  const auto all = settings();
  std::vector<std::string> flags(all.size());
  for (std::size_t i = 0; i < all.size(); ++i)
    app.add_option(all[i].flag, flags[i], std::string(all[i].option.help))
        ->type_name(std::string(all[i].option.placeholder));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    tell_failed(ready_fd(all, flags), ExitStatus::usage, usage_error_of(error, app, all));
    return usage_error;
  }
  auto config = merge(all, flags, file);
  if (config) {
    config->gpu_probe = gpu_probe;
    config->gpu_probe_driver = gpu_probe_driver;
    config->gpu_worker = gpu_worker;
    config->gpu_uuid = gpu_uuid;
    return *config;
  }
  tell_failed(ready_fd(all, flags), ExitStatus::usage, config.error());
  return usage_error;
}

}  // namespace musterd
