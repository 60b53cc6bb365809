// The commands that ask the daemon something: start, stop, status, ls, groups.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "../exit_status.hpp"

namespace muster::cli {

struct StartOptions {
  std::string socket;                           ///< empty, here and below: the default
  std::string config;                           ///< empty: $MUSTER_CONFIG, else none
  std::map<std::string, std::string> settings;  ///< flags of musterd, with values that it takes
  bool json = false;
};

struct StopOptions {
  std::string socket;
  double timeout_s = 10;
  bool json = false;
};

struct StatusOptions {
  std::string socket;
  bool json = false;
};

struct ListOptions {
  std::string socket;
  std::uint32_t limit = 1000;
  bool json = false;
};

struct GroupsOptions {
  std::string socket;
  bool json = false;
};

[[nodiscard]] ExitStatus start(const StartOptions& options);
[[nodiscard]] ExitStatus stop(const StopOptions& options);
[[nodiscard]] ExitStatus status(const StatusOptions& options);
[[nodiscard]] ExitStatus list(const ListOptions& options);
[[nodiscard]] ExitStatus groups(const GroupsOptions& options);

}  // namespace muster::cli
