#include "process.hpp"

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace fake_gpu {
namespace {

/// The fields of /proc/PID/stat from the third on, which is the state. Empty if there is no such process.
std::vector<std::string> fields_of(std::int32_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return {};
  // The second is the name, in parentheses, and may contain anything.
  const auto end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos) return {};
  std::istringstream rest(text.substr(end_of_name + 1));
  std::vector<std::string> fields;
  for (std::string field; rest >> field;) fields.push_back(field);
  return fields;
}

constexpr std::size_t state_field = 0, start_field = 19;

}  // namespace

std::uint64_t start_of(std::int32_t pid) {
  const auto fields = fields_of(pid);
  if (fields.size() <= start_field || fields[state_field] == "Z" || fields[state_field] == "X") return 0;
  return std::stoull(fields[start_field]);
}

ProcessId this_process() {
  const auto pid = static_cast<std::int32_t>(::getpid());
  return {pid, start_of(pid)};
}

bool lives(const ProcessId& process) { return process.start != 0 && start_of(process.pid) == process.start; }

bool is_stopped(std::int32_t pid) {
  const auto fields = fields_of(pid);
  return !fields.empty() && (fields[state_field] == "T" || fields[state_field] == "t");
}

}  // namespace fake_gpu
