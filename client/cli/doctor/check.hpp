// One finding of `muster doctor`: what it checked, what it found, and how to mend it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace muster::cli {

enum class Health {
  ok,
  warn,  ///< Muster works, but slower or with less
  fail,  ///< Muster can't work
};

[[nodiscard]] constexpr std::string_view name(Health health) {
  return health == Health::ok ? "ok" : health == Health::warn ? "warn" : "fail";
}

struct Check {
  std::string name;  ///< stable; scripts look for it
  Health health = Health::ok;
  std::string found;
  std::string mend;  ///< empty if nothing is wrong
};

[[nodiscard]] std::vector<Check> check_kernel();
[[nodiscard]] std::vector<Check> check_limits();
/// A part of check_limits(): whether a process may have enough memory mappings.
[[nodiscard]] Check check_mappings(std::uint64_t limit);
[[nodiscard]] std::vector<Check> check_memory();
[[nodiscard]] std::vector<Check> check_huge_pages();
[[nodiscard]] std::vector<Check> check_cpu();
/// `socket`: empty for the default.
[[nodiscard]] std::vector<Check> check_socket(const std::string& socket);
[[nodiscard]] std::vector<Check> check_daemon(const std::string& socket);

}  // namespace muster::cli
