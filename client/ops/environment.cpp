#include "environment.hpp"

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include <fmt/format.h>

namespace muster::detail {

namespace {

/// An environment variable that should hold a number.
struct Variable {
  explicit Variable(const char* its_name) : name(its_name), text(std::getenv(its_name)) {}

  [[nodiscard]] std::optional<int> number() const {
    if (!text) return std::nullopt;
    const std::string_view digits = text;
    int value = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size()) return std::nullopt;
    return value;
  }
  /// "RANK=1"
  [[nodiscard]] std::string assignment() const { return fmt::format("{}={}", name, text ? text : ""); }

  const char* name;
  const char* text;
};

/// Says why this pair of variables names no rank. Empty if neither variable is set.
std::string flaw_of(const Variable& rank, const Variable& world_size) {
  for (const auto* variable : {&rank, &world_size})
    if (variable->text && !variable->number()) return variable->assignment() + " is not a whole number";
  if (rank.text && !world_size.text) return fmt::format("{} is set, but {} is not", rank.assignment(), world_size.name);
  if (world_size.text && !rank.text) return fmt::format("{} is set, but {} is not", world_size.assignment(), rank.name);
  return "";
}

}  // namespace

Result<Placement> placement_from_environment() {
  constexpr const char* launchers[][2] = {{"MUSTER_RANK", "MUSTER_WORLD_SIZE"},
                                          {"RANK", "WORLD_SIZE"},
                                          {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                          {"SLURM_PROCID", "SLURM_NTASKS"}};
  std::string flaws;
  for (const auto& [rank_name, size_name] : launchers) {
    const Variable rank(rank_name), world_size(size_name);
    if (rank.number() && world_size.number()) {
      if (*rank.number() >= 0 && *rank.number() < *world_size.number())
        return Placement{*rank.number(), *world_size.number()};
      return Error(Code::invalid, fmt::format("{} is out of range: {}", rank.assignment(), world_size.assignment()),
                   fmt::format("ranks run from 0 to {} - 1", size_name));
    }
    if (const auto flaw = flaw_of(rank, world_size); !flaw.empty()) flaws += (flaws.empty() ? "" : "; ") + flaw;
  }
  return Error(Code::invalid, flaws.empty() ? "no launcher has set them" : flaws,
               "pass both, or start the ranks with: muster run -n 4 -- PROGRAM");
}

}  // namespace muster::detail
