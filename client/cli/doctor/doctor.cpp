// Runs all checks and prints them, for people or as JSON.
#include "doctor.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <fmt/format.h>

#include <muster/ipc/json.hpp>

#include "../daemon/inquiry.hpp"
#include "../terminal.hpp"
#include "../text.hpp"
#include "check.hpp"
#include "gpu.hpp"

namespace muster::cli {

namespace {

/// Where the probe looks for NCCL: where the user says, or else where the running daemon does. What another user's
/// daemon names is left alone, as the probe loads it.
std::vector<std::string> nccl_words(const DoctorOptions& options) {
  std::string so = options.nccl_so;
  if (so.find('/') != std::string::npos) so = std::filesystem::absolute(so).string();
  std::string wheel = options.nccl_wheel;
  if (so.empty() && wheel.empty()) {
    auto inquiry = Inquiry::open(options.socket, std::chrono::seconds(2));
    if (!inquiry || !inquiry->is_trusted()) return {};
    const auto status = inquiry->status();
    if (!status) return {};
    const auto& reply = *status->frame().body_as_StatusReply();
    so = flatbuffers::GetString(reply.nccl_so());
    wheel = flatbuffers::GetString(reply.nccl_wheel());
  }
  std::vector<std::string> words;
  if (!so.empty()) words.insert(words.end(), {"--nccl-so", so});
  if (!wheel.empty()) words.insert(words.end(), {"--nccl-wheel", wheel});
  return words;
}

std::vector<Check> all_checks(const DoctorOptions& options) {
  std::vector<Check> checks;
  const auto add = [&](std::vector<Check> more) {
    checks.insert(checks.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  add(check_kernel());
  add(check_limits());
  add(check_memory());
  add(check_huge_pages());
  add(check_cpu());
  add(check_gpu(nccl_words(options), std::chrono::duration_cast<std::chrono::milliseconds>(
                                         std::chrono::duration<double>(options.timeout_s))));
  add(check_socket(options.socket));
  add(check_daemon(options.socket));
  return checks;
}

std::uint64_t count(const std::vector<Check>& checks, Health health) {
  return static_cast<std::uint64_t>(
      std::count_if(checks.begin(), checks.end(), [&](const Check& check) { return check.health == health; }));
}

std::string as_text(const std::vector<Check>& checks, bool colour) {
  std::size_t width = 0;
  for (const auto& check : checks) width = std::max(width, check.name.size());
  std::string text;
  for (const auto& check : checks) {
    const Tint tint = check.health == Health::ok     ? Tint::green
                      : check.health == Health::warn ? Tint::yellow
                                                     : Tint::red;
    std::string word{name(check.health)};
    word.resize(4, ' ');
    const std::string padding(width - check.name.size(), ' ');
    text += fmt::format("{}  {}{}  {}\n", tinted(word, tint, colour), check.name, padding, check.found);
    if (!check.mend.empty()) text += fmt::format("{}-> {}\n", std::string(width + 8, ' '), check.mend);
  }
  const auto failed = count(checks, Health::fail);
  const auto warned = count(checks, Health::warn);
  text += fmt::format("\n{}: {} failed, {}", plural(checks.size(), "check"), failed, plural(warned, "warning"));
  text += failed > 0 ? "; mend what failed, then run `muster doctor` again\n" : "; Muster works here\n";
  return text;
}

std::string as_json(const std::vector<Check>& checks) {
  ipc::JsonWriter json;
  json.begin_object();
  json.field("failed", count(checks, Health::fail)).field("warnings", count(checks, Health::warn));
  json.key("checks").begin_array();
  for (const auto& check : checks) {
    json.begin_object().field("name", check.name).field("health", name(check.health));
    json.field("found", check.found).field("mend", check.mend).end_object();
  }
  json.end_array().end_object();
  return json.text() + "\n";
}

}  // namespace

ExitStatus doctor(const DoctorOptions& options) {
  const auto checks = all_checks(options);
  const std::string text = options.json ? as_json(checks) : as_text(checks, wants_colour(STDOUT_FILENO));
  std::fputs(text.c_str(), stdout);
  return count(checks, Health::fail) > 0 ? ExitStatus::failed : ExitStatus::ok;
}

}  // namespace muster::cli
