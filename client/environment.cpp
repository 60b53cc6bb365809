#include "environment.hpp"

#include <charconv>
#include <cstdlib>
#include <cstring>

namespace muster::detail {

namespace {

std::optional<int> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  if (!text) return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
  return value;
}

}  // namespace

std::optional<Placement> placement_from_environment() {
  constexpr const char* launchers[][2] = {{"MUSTER_RANK", "MUSTER_WORLD_SIZE"},
                                          {"RANK", "WORLD_SIZE"},
                                          {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                          {"SLURM_PROCID", "SLURM_NTASKS"}};
  for (const auto& [rank_name, size_name] : launchers) {
    const auto rank = number_in(rank_name);
    const auto world_size = number_in(size_name);
    if (rank && world_size) return Placement{*rank, *world_size};
  }
  return std::nullopt;
}

}  // namespace muster::detail
