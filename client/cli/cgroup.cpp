// A limit of any ancestor binds too, so the way up to the root is walked.
#include "cgroup.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

namespace muster::cli {

namespace {

struct Version {
  std::string root;
  const char* limit;
  const char* used;
  const char* events;
};

std::optional<std::uint64_t> number_in(const std::string& path) {
  const auto text = read_text_file(path);
  if (!text) return std::nullopt;
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), number);
  if (parsed.ec != std::errc()) return std::nullopt;  // "max"
  return number;
}

/// The path of our memory group relative to the hierarchy's root, from lines "id:controllers:path".
std::string own_path(const std::string& table, bool unified) {
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (unified ? controllers == ",," : controllers.find(",memory,") != std::string::npos)
      return line.substr(second + 1);
  }
  return "/";
}

CgroupMemory read_groups(const Version& version, std::string path) {
  // In a container the path may be the host's: then only the root is there, and it is ours.
  if (!read_text_file(version.root + path + "/" + version.used)) path = "/";
  CgroupMemory found;
  found.path = version.root + (path == "/" ? "" : path);
  found.used_bytes = number_in(found.path + "/" + version.used).value_or(0);
  const auto events = read_text_file(found.path + "/" + version.events);
  if (events) found.oom_kills = number_after(*events, "oom_kill").value_or(0);
  for (std::string at = found.path; at.size() >= version.root.size(); at = at.substr(0, at.rfind('/'))) {
    const auto limit = number_in(at + "/" + version.limit);
    constexpr std::uint64_t unlimited = 1ULL << 60;  // version 1 writes a huge number
    if (limit && *limit < unlimited) found.limit_bytes = std::min(*limit, found.limit_bytes.value_or(unlimited));
  }
  return found;
}

}  // namespace

std::optional<std::string> read_text_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  std::string found = text.str();
  if (file.bad()) return std::nullopt;
  while (!found.empty() && found.back() == '\n') found.pop_back();
  return found;
}

std::optional<std::uint64_t> number_after(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key) || line.size() == key.size()) continue;
    const char next = line[key.size()];
    if (next != ' ' && next != ':' && next != '\t') continue;
    const auto digit = line.find_first_of("0123456789", key.size());
    std::uint64_t number = 0;
    if (digit != std::string::npos &&
        std::from_chars(line.data() + digit, line.data() + line.size(), number).ec == std::errc())
      return number;
  }
  return std::nullopt;
}

std::optional<CgroupMemory> cgroup_memory() {
  const auto table = read_text_file("/proc/self/cgroup");
  if (!table) return std::nullopt;
  if (read_text_file("/sys/fs/cgroup/cgroup.controllers"))
    return read_groups({"/sys/fs/cgroup", "memory.max", "memory.current", "memory.events"}, own_path(*table, true));
  const std::string root = "/sys/fs/cgroup/memory";
  if (!read_text_file(root + "/memory.usage_in_bytes")) return std::nullopt;
  return read_groups({root, "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"},
                     own_path(*table, false));
}

}  // namespace muster::cli
