#include "ending.hpp"

#include <cstring>

namespace muster::cli {

namespace {

std::string signal_name(int signal) {
  const char* abbreviation = ::sigabbrev_np(signal);
  return abbreviation != nullptr ? "SIG" + std::string(abbreviation) : "signal " + std::to_string(signal);
}

/// The signal's description in brackets; real-time signals have none.
std::string described(int signal) {
  const char* description = ::sigdescr_np(signal);
  return description != nullptr ? " (" + std::string(description) + ")" : "";
}

}  // namespace

std::string how(const Ending& ending) {
  if (ending.signal == 0) return "exited with code " + std::to_string(ending.exit_code);
  return "was ended by " + signal_name(ending.signal) + described(ending.signal);
}

}  // namespace muster::cli
