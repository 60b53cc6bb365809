// The commands start and stop.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/cgroup.hpp>
#include <muster/ipc/daemon_options.hpp>
#include <muster/ipc/json.hpp>
#include <muster/ipc/place.hpp>
#include <muster/options.hpp>

#include "../../core/start_daemon.hpp"
#include "../message.hpp"
#include "../text.hpp"
#include "daemon_commands.hpp"
#include "inquiry.hpp"

namespace muster::cli {

namespace {

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(std::llround(seconds * 1e3));
}

Error still_there(std::optional<pid_t> pid, double timeout_s) {
  const std::string process = pid ? std::to_string(*pid) : "PID";
  return Error(Code::timeout,
               fmt::format("the daemon (pid {}) has not ended within {}", process, format_age(timeout_s)),
               "see its log, or end it by force: kill -KILL " + process);
}

struct Started {
  Inquiry inquiry;
  bool now = false;         ///< this command started it
  std::string made_folder;  ///< the folder that was made for the socket; empty if it was there already
};

/// Returns the folder that has to be made for the socket. Empty if it is there.
std::string missing_folder(const std::string& socket) {
  const auto folder = std::filesystem::path(socket).parent_path();
  std::error_code unknown;
  return folder.empty() || std::filesystem::exists(folder, unknown) || unknown ? std::string() : folder.string();
}

/// How long a daemon may take to start. It may ask the GPUs' driver before it serves.
std::chrono::milliseconds patience(const StartOptions& options, std::chrono::milliseconds usual) {
  for (const auto& [flag, value] : options.settings)
    if (flag == "--gpu-timeout")
      if (const auto seconds = ipc::parse_daemon_option(ipc::daemon_option(flag), value); seconds)
        return usual + milliseconds_of(*seconds);
  return usual;
}

/// Returns the daemon on the socket; starts one if there is none.
Result<Started> running_daemon(const StartOptions& options) {
  const ConnectOptions connect;
  std::vector<std::string> settings;
  // The daemon has another working directory, so paths must be absolute.
  if (!options.config.empty()) settings = {"--config", std::filesystem::absolute(options.config).string()};
  for (const auto& [flag, value] : options.settings) {
    const bool file = flag == "--nccl-so" && value.find('/') != std::string::npos;
    settings.insert(settings.end(), {flag, file ? std::filesystem::absolute(value).string() : value});
  }
  const auto until = std::chrono::steady_clock::now() + patience(options, connect.timeout);
  const std::string path = ipc::socket_path(options.socket);
  const std::string folder = missing_folder(path);
  bool started = false;
  for (;;) {
    auto inquiry = Inquiry::open(options.socket);
    if (inquiry) return Started{std::move(*inquiry), started, folder};
    const bool absent = inquiry.error().code() == Code::daemon_unavailable;
    if (!absent || std::chrono::steady_clock::now() > until) return inquiry.error();
    const auto launched = detail::start_daemon(path, connect, until, settings);
    if (!launched) return launched.error();
    started = true;
  }
}

Error runs_with(const Inquiry& inquiry, const std::string& found, const std::string& wanted, const std::string& flag) {
  return {Code::invalid, fmt::format("the daemon on {} runs with {}, not {}", inquiry.socket(), found, wanted),
          fmt::format("leave {} out, or run `muster stop` first", flag)};
}

std::string idle_exit_text(double idle_exit_s) {
  return idle_exit_s > 0 ? "an idle exit after " + format_age(idle_exit_s) : "no idle exit";
}

/// Fails if the running daemon has other settings than the user asked for.
Result<void> check_settings(const StartOptions& options, const Inquiry& inquiry) {
  for (const auto& [flag, text] : options.settings) {
    const auto wanted = ipc::parse_daemon_option(ipc::daemon_option(flag), text);
    if (!wanted) return wanted.error();
    if (const auto bytes = static_cast<std::uint64_t>(*wanted); flag == "--memory" && bytes != inquiry.memory_bytes())
      return runs_with(inquiry, ipc::bytes_text(inquiry.memory_bytes(), bytes) + " of memory",
                       ipc::bytes_text(bytes, inquiry.memory_bytes()), flag);
    if (flag == "--pickle-lease" && milliseconds_of(*wanted) != inquiry.pickle_lease()) {
      const std::chrono::duration<double> lease = inquiry.pickle_lease();
      return runs_with(inquiry, "a pickle lease of " + format_age(lease.count()), format_age(*wanted), flag);
    }
    if (flag == "--idle-exit" && milliseconds_of(*wanted) != milliseconds_of(inquiry.idle_exit_s()))
      return runs_with(inquiry, idle_exit_text(inquiry.idle_exit_s()), idle_exit_text(*wanted), flag);
  }
  return {};
}

void tell_of_mistyped(const ipc::MistypedVariable& variable) {
  note(fmt::format("muster start: nobody reads the variable {}\n  hint: did you mean {}?", variable.given,
                   variable.meant));
}

/// Mentions the settings that a running daemon doesn't report.
void tell_of_unknown_settings(const StartOptions& options) {
  std::vector<std::string> flags;
  if (!options.config.empty()) flags.emplace_back("--config");
  for (const auto& [flag, ignored] : options.settings)
    if (flag != "--memory" && flag != "--pickle-lease" && flag != "--idle-exit") flags.push_back(flag);
  if (flags.empty()) return;
  note(
      fmt::format("muster start: the daemon runs already, and may have been started without {}\n"
                  "  hint: to be sure, run `muster stop` first",
                  join(flags, ", ")));
}

/// The daemon takes no memory before there are arrays, so it starts even with a budget that is too large.
void tell_of_too_large_a_budget(std::uint64_t memory_bytes) {
  const std::uint64_t usable = ipc::usable_memory_bytes();
  if (memory_bytes <= usable) return;
  note(
      fmt::format("muster start: the store may take {}, and this machine or cgroup has {}: "
                  "a store that fills up gets processes killed\n"
                  "  hint: muster stop; muster start --memory with less",
                  ipc::bytes_text(memory_bytes, usable), ipc::bytes_text(usable, memory_bytes)));
}

std::string started_json(const Started& daemon, const wire::StatusReply& status) {
  ipc::JsonWriter json;
  json.begin_object().field("started", daemon.now).field("pid", status.pid());
  json.field("socket", daemon.inquiry.socket()).field("version", daemon.inquiry.version());
  json.field("memory_bytes", daemon.inquiry.memory_bytes());
  json.field("made_folder", daemon.made_folder);
  json.field("log", detail::daemon_log(daemon.inquiry.socket())).end_object();
  return json.text() + "\n";
}

std::string started_text(const Started& daemon, const wire::StatusReply& status) {
  const std::string& socket = daemon.inquiry.socket();
  std::string text = fmt::format("musterd {}: pid {}, {} of memory\n", daemon.now ? "started" : "runs already",
                                 status.pid(), ipc::bytes_text(daemon.inquiry.memory_bytes()));
  text += fmt::format("  socket  {}\n", socket);
  if (!daemon.made_folder.empty()) text += fmt::format("  made the folder {}\n", daemon.made_folder);
  if (daemon.now) text += fmt::format("  log     {}\n", detail::daemon_log(socket));
  if (daemon.inquiry.idle_exit_s() > 0 && !daemon.now)
    text += fmt::format("  It ends {} after its last client leaves\n", format_age(daemon.inquiry.idle_exit_s()));
  if (socket != ipc::default_socket_path())
    text += fmt::format("Programs find it by: export MUSTER_SOCKET={}\n", socket);
  return text + "Next: muster run -n 4 -- python train.py; muster status; muster stop\n";
}

}  // namespace

ExitStatus start(const StartOptions& options) {
  for (const auto& variable : ipc::mistyped_variables()) tell_of_mistyped(variable);
  auto daemon = running_daemon(options);
  if (!daemon) return complain("start", daemon.error());
  const auto fits = check_settings(options, daemon->inquiry);
  if (!fits) return complain("start", fits.error());
  if (!daemon->now) tell_of_unknown_settings(options);
  tell_of_too_large_a_budget(daemon->inquiry.memory_bytes());
  const auto status = daemon->inquiry.status();
  if (!status) return complain("start", status.error());
  const auto& reply = *status->frame().body_as_StatusReply();
  const std::string text = options.json ? started_json(*daemon, reply) : started_text(*daemon, reply);
  std::fputs(text.c_str(), stdout);
  return ExitStatus::ok;
}

ExitStatus stop(const StopOptions& options) {
  const auto timeout = milliseconds_of(std::clamp(options.timeout_s, 0.001, 86'400.0));
  auto inquiry = Inquiry::open(options.socket, timeout,
                               "there is nothing to stop; a daemon on another socket ends with: muster stop --socket "
                               "PATH");
  if (!inquiry) return complain("stop", inquiry.error());
  const auto pid = inquiry->daemon_pid();
  const auto asked = inquiry->stop("muster stop");
  if (!asked) return complain("stop", asked.error());
  if (!inquiry->wait_for_end(timeout)) return complain("stop", still_there(pid, options.timeout_s));
  if (options.json) {
    ipc::JsonWriter json;
    json.begin_object().field("stopped", true).field("socket", inquiry->socket());
    json.field("version", inquiry->version()).field("pid", pid.value_or(0)).end_object();
    std::printf("%s\n", json.text().c_str());
  } else {
    std::printf("the daemon on %s has ended%s\n", inquiry->socket().c_str(),
                pid ? fmt::format(" (pid {})", *pid).c_str() : "");
  }
  return ExitStatus::ok;
}

}  // namespace muster::cli
