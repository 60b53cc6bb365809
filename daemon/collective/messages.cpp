#include "collective/messages.hpp"

#include <cstdio>

namespace musterd {

using muster::Code;
using muster::Error;

namespace {

/// Longer lists are told as ranges.
constexpr std::size_t ranks_listed_max = 8;

std::string list(std::span<const int> ranks) {
  std::string text;
  for (std::size_t first = 0; first < ranks.size();) {
    std::size_t last = first;
    if (ranks.size() > ranks_listed_max)
      while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += std::to_string(ranks[first]);
    if (last > first) text += "-" + std::to_string(ranks[last]);
    first = last + 1;
  }
  return text;
}

std::vector<int> ranks_of(const Losses& losses) {
  std::vector<int> ranks;
  for (const auto& [rank, reason] : losses) ranks.push_back(rank);
  return ranks;
}

/// "rank 2 died, ranks 3, 4 left"
std::string losses_text(const Losses& losses) {
  std::map<std::string, std::vector<int>> by_reason;
  for (const auto& [rank, reason] : losses) by_reason[reason].push_back(rank);
  std::string text;
  for (const auto& [reason, ranks] : by_reason) {
    if (!text.empty()) text += ", ";
    text += ranks_text(ranks) + " " + reason;
  }
  return text;
}

std::string seconds_text(Duration duration) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", std::chrono::duration<double>(duration).count());
  return text;
}

}  // namespace

std::string ranks_text(std::span<const int> ranks) {
  if (ranks.empty()) return "no rank";
  return (ranks.size() == 1 ? "rank " : "ranks ") + list(ranks);
}

Error lost_while_awaited(const std::string& op_name, const Losses& losses) {
  return Error(Code::peer_lost, op_name + " waited for a rank that is lost: " + losses_text(losses),
               "call reform() on every live rank to go on without it", ranks_of(losses));
}

Error lost_before_called(const std::string& op_name, const Losses& losses) {
  return Error(Code::peer_lost, op_name + " can't start, the group has lost ranks: " + losses_text(losses),
               "call reform() on every live rank to go on without them", ranks_of(losses));
}

Error not_members(const std::string& op_name, std::span<const int> ranks) {
  return Error(Code::peer_lost, op_name + " needs " + ranks_text(ranks) + ", which is no live member of this epoch",
               "choose a root or peer among group.live", {ranks.begin(), ranks.end()});
}

Error not_replaced(const std::string& op_name, const Losses& losses) {
  return Error(Code::peer_lost,
               op_name + " reached its deadline and nobody took the seat of a lost rank: " + losses_text(losses),
               "start a replacement that joins with that rank, or call reform() to go on without it", ranks_of(losses));
}

Error deadline_passed(const std::string& op_name, std::span<const int> missing, std::span<const int> present,
                      Duration waited) {
  return Error(Code::timeout,
               op_name + " waited " + seconds_text(waited) + " for " + ranks_text(missing) + "; " +
                   ranks_text(present) + (present.size() == 1 ? " was there" : " were there"),
               "see what the missing ranks do; give a longer timeout= if they are only slow",
               {missing.begin(), missing.end()});
}

Error no_input(const std::string& op_name, int rank, const Error& cause) {
  return Error(cause.code(),
               op_name + " can't work: rank " + std::to_string(rank) + " has no input for it: " + cause.message(),
               "correct the call on that rank; the op has failed on every rank", {rank});
}

Error too_many_in_flight(const std::string& op_name, int rank, std::size_t in_flight_max) {
  return Error(Code::quota_exceeded,
               op_name + " is one too many: rank " + std::to_string(rank) + " has " + std::to_string(in_flight_max) +
                   " ops pending already",
               "wait for some results before starting more", {rank});
}

Error too_far_behind(const std::string& op_name, std::span<const int> missing, std::size_t behind) {
  return Error(Code::quota_exceeded,
               op_name + " is given up: " + ranks_text(missing) + (missing.size() == 1 ? " has" : " have") +
                   " fallen " + std::to_string(behind) + " ops behind the others",
               "wait for some results before starting more", {missing.begin(), missing.end()});
}

Error outcome_forgotten(const std::string& op_name, int rank, std::size_t history_max, Code code) {
  return Error(code,
               op_name + " failed long before rank " + std::to_string(rank) +
                   " called it, and its outcome is kept no more (the last " + std::to_string(history_max) +
                   " are, if there is memory for them)",
               "call collectives at the same pace on every rank", {rank});
}

}  // namespace musterd
