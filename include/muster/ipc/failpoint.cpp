// The environment is read once. A hit then costs two atomic additions, so that timings stay near to the real ones.
#include <muster/ipc/failpoint.hpp>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

namespace muster::ipc {

namespace {

enum class Action { none, kill, stop, exit };

struct Plan {
  std::string_view name;
  unsigned count = 1;
  Action action = Action::none;
};

std::optional<Action> action_of(std::string_view text) {
  if (text == "kill") return Action::kill;
  if (text == "stop") return Action::stop;
  if (text == "exit") return Action::exit;
  return std::nullopt;
}

/// `name[:count]=action`
std::optional<Plan> parse(std::string_view text) {
  const auto equals = text.find('=');
  if (equals == std::string_view::npos) return std::nullopt;
  const auto action = action_of(text.substr(equals + 1));
  Plan plan{text.substr(0, equals), 1, action.value_or(Action::none)};
  if (const auto colon = plan.name.find(':'); colon != std::string_view::npos) {
    const auto digits = plan.name.substr(colon + 1);
    const auto [end, error] = std::from_chars(digits.begin(), digits.end(), plan.count);
    if (error != std::errc{} || end != digits.end() || plan.count == 0) return std::nullopt;
    plan.name = plan.name.substr(0, colon);
  }
  const bool is_known = std::ranges::find(failpoint_names, plan.name) != failpoint_names.end();
  return action && is_known ? std::optional(plan) : std::nullopt;
}

Plan plan_of_environment() {
  const char* text = std::getenv("MUSTER_FAILPOINT");
  if (text == nullptr || *text == '\0') return {};
  if (const auto plan = parse(text)) return *plan;
  std::fprintf(stderr, "muster: MUSTER_FAILPOINT can't be understood: '%s' (hint: name[:count]=kill|stop|exit)\n",
               text);
  _exit(2);
}

void append_to_log(std::string_view name) {
  const char* path = std::getenv("MUSTER_FAILPOINT_LOG");
  if (path == nullptr || *path == '\0') return;
  const int log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  const std::string line = std::string(name) + "\n";
  if (log < 0 || write(log, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    std::fprintf(stderr, "muster: can't write to MUSTER_FAILPOINT_LOG: '%s'\n", path);
  if (log >= 0) close(log);
}

void perform(Action action) {
  if (action == Action::kill) kill(getpid(), SIGKILL);
  if (action == Action::stop) kill(getpid(), SIGSTOP);
  if (action == Action::exit) _exit(0);
}

}  // namespace

void hit(Failpoint failpoint) {
  static const Plan plan = plan_of_environment();
  static std::array<std::atomic<unsigned>, failpoint_names.size()> hits{};
  const auto index = static_cast<std::size_t>(failpoint);
  const unsigned count = ++hits[index];
  if (count == 1) append_to_log(failpoint_names[index]);
  if (plan.action != Action::none && count == plan.count && plan.name == failpoint_names[index]) perform(plan.action);
}

}  // namespace muster::ipc
