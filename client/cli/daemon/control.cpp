// start and stop.
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "../json.hpp"
#include "../message.hpp"
#include "../text.hpp"
#include "daemon_commands.hpp"
#include "inquiry.hpp"

namespace muster::cli {

namespace {

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(std::llround(std::clamp(seconds, 0.001, 86'400.0) * 1e3));
}

Error still_there(std::optional<pid_t> pid, double timeout_s) {
  const std::string process = pid ? std::to_string(*pid) : "PID";
  return Error(Code::timeout, "the daemon (pid " + process + ") has not ended within " + format_age(timeout_s),
               "see its log, or end it by force: kill -KILL " + process);
}

}  // namespace

ExitStatus stop(const StopOptions& options) {
  const auto timeout = milliseconds(options.timeout_s);
  auto inquiry = Inquiry::open(options.socket, timeout);
  if (!inquiry) return complain("stop", inquiry.error());
  const auto pid = inquiry->daemon_pid();
  const auto asked = inquiry->stop("muster stop");
  if (!asked) return complain("stop", asked.error());
  if (!inquiry->wait_for_end(timeout)) return complain("stop", still_there(pid, options.timeout_s));
  std::printf("the daemon on %s has ended\n", inquiry->socket().c_str());
  return ExitStatus::ok;
}

}  // namespace muster::cli
