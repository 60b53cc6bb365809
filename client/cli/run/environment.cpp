// All ranks run on one node, so the local rank is the rank.
#include "environment.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

namespace muster::cli {

namespace {

bool names(std::string_view entry, std::string_view variable) {
  return entry.size() > variable.size() && entry.starts_with(variable) && entry[variable.size()] == '=';
}

void set(std::vector<std::string>& environment, std::string_view variable, const std::string& value) {
  std::erase_if(environment, [&](const std::string& entry) { return names(entry, variable); });
  environment.push_back(fmt::format("{}={}", variable, value));
}

void set_default(std::vector<std::string>& environment, std::string_view variable, const std::string& value) {
  const auto same = [&](const std::string& entry) { return names(entry, variable); };
  if (std::none_of(environment.begin(), environment.end(), same)) set(environment, variable, value);
}

}  // namespace

std::vector<std::string> rank_environment(std::vector<std::string> inherited, const RankPlace& place, unsigned cores) {
  auto& environment = inherited;
  set(environment, "MUSTER_RANK", std::to_string(place.rank));
  set(environment, "MUSTER_LOCAL_RANK", std::to_string(place.rank));
  set(environment, "MUSTER_WORLD_SIZE", std::to_string(place.ranks));
  set(environment, "MUSTER_GROUP", place.group);
  if (!place.socket.empty()) set(environment, "MUSTER_SOCKET", place.socket);
  set_default(environment, "PYTHONUNBUFFERED", "1");
  const unsigned threads = std::max(1U, cores / static_cast<unsigned>(std::max(1, place.ranks)));
  set_default(environment, "OMP_NUM_THREADS", std::to_string(threads));
  return environment;
}

unsigned allowed_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  return static_cast<unsigned>(std::max(1, CPU_COUNT(&allowed)));
}

std::vector<std::string> own_environment() {
  std::vector<std::string> found;
  for (char** entry = ::environ; entry != nullptr && *entry != nullptr; ++entry) found.emplace_back(*entry);
  return found;
}

}  // namespace muster::cli
