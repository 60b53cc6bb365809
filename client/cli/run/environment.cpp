// All ranks run on one node, so the local rank is the rank.
#include "environment.hpp"

#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include <muster/ipc/fd.hpp>

namespace muster::cli {

namespace {

bool names(std::string_view entry, std::string_view variable) {
  return entry.size() > variable.size() && entry.starts_with(variable) && entry[variable.size()] == '=';
}

void unset(std::vector<std::string>& environment, std::string_view variable) {
  std::erase_if(environment, [&](const std::string& entry) { return names(entry, variable); });
}

void set(std::vector<std::string>& environment, std::string_view variable, const std::string& value) {
  unset(environment, variable);
  environment.push_back(fmt::format("{}={}", variable, value));
}

void set_default(std::vector<std::string>& environment, std::string_view variable, const std::string& value) {
  const auto same = [&](const std::string& entry) { return names(entry, variable); };
  if (std::none_of(environment.begin(), environment.end(), same)) set(environment, variable, value);
}

}  // namespace

std::vector<std::string> rank_environment(std::vector<std::string> inherited, const RankPlace& place, unsigned cores) {
  auto& environment = inherited;
  const auto rank = std::to_string(place.rank);
  const auto ranks = std::to_string(place.ranks);
  for (const char* variable : {"MUSTER_RANK", "MUSTER_LOCAL_RANK", "RANK", "LOCAL_RANK"})
    set(environment, variable, rank);
  for (const char* variable : {"MUSTER_WORLD_SIZE", "WORLD_SIZE", "LOCAL_WORLD_SIZE"})
    set(environment, variable, ranks);
  set(environment, "MUSTER_GROUP", place.group);
  set(environment, "MASTER_ADDR", "127.0.0.1");
  unset(environment, "MASTER_PORT");
  if (place.port != 0) set(environment, "MASTER_PORT", std::to_string(place.port));
  // With this, left by a torchrun around, rank 0 would not serve the store itself.
  unset(environment, "TORCHELASTIC_USE_AGENT_STORE");
  if (!place.socket.empty()) set(environment, "MUSTER_SOCKET", place.socket);
  set_default(environment, "PYTHONUNBUFFERED", "1");
  const unsigned threads = std::max(1U, cores / static_cast<unsigned>(std::max(1, place.ranks)));
  set_default(environment, "OMP_NUM_THREADS", std::to_string(threads));
  return environment;
}

int unused_port() {
  const ipc::Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);
  if (!socket || ::bind(socket.get(), any, bytes) != 0 || ::getsockname(socket.get(), any, &bytes) != 0) return 0;
  return ntohs(address.sin_port);
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
