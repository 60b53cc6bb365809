#include "collective/messages.hpp"

#include <cstdio>

#include <fmt/format.h>

#include <muster/ipc/text.hpp>

#include "collective/agreement.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::ipc::Kind;

namespace {

/// Longer lists are written as ranges.
constexpr std::size_t ranks_listed_max = 8;

std::string list(std::span<const int> ranks) {
  std::string text;
  for (std::size_t first = 0; first < ranks.size();) {
    std::size_t last = first;
    if (ranks.size() > ranks_listed_max)
      while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += std::to_string(ranks[first]);
    if (last > first) text += fmt::format("-{}", ranks[last]);
    first = last + 1;
  }
  return text;
}

std::vector<int> ranks_of(const Losses& losses) {
  std::vector<int> ranks;
  for (const auto& [rank, loss] : losses) ranks.push_back(rank);
  return ranks;
}

/// "rank 2 (pid 4711 on host)"
std::string rank_text(int rank, const std::string& process) {
  return process.empty() ? fmt::format("rank {}", rank) : fmt::format("rank {} ({})", rank, process);
}

/// "rank 2 (pid 4711 on host) died, ranks 3, 4, 5 left". `lost` are some of the losses, in rising order.
std::string losses_text(std::span<const int> lost, const Losses& losses) {
  constexpr std::size_t told_apart_max = 2;
  std::map<std::string, std::vector<int>> by_reason;
  auto reason = by_reason.end();
  auto loss = losses.begin();
  // A thousand ranks may be lost, usually for the same reason, so the last reason is tried first.
  for (const int rank : lost) {
    while (loss->first != rank) ++loss;
    if (reason == by_reason.end() || reason->first != loss->second.how)
      reason = by_reason.try_emplace(loss->second.how).first;
    reason->second.push_back(rank);
  }
  std::string text;
  const auto append = [&](const std::string& more) { text += (text.empty() ? "" : ", ") + more; };
  for (const auto& [how, ranks] : by_reason) {
    const bool known = !losses.at(ranks.front()).process.empty();
    if (!known || ranks.size() > told_apart_max) append(fmt::format("{} {}", ranks_text(ranks), how));
    else
      for (const int rank : ranks) append(fmt::format("{} {}", rank_text(rank, losses.at(rank).process), how));
  }
  return text;
}

std::string losses_text(const Losses& losses) { return losses_text(ranks_of(losses), losses); }

/// What a missing rank does instead, and what to do about it.
struct Advice {
  std::string does;
  std::string hint;
};
Advice advice_of_absent(int rank, const std::optional<FormerHolder>& former) {
  if (!former)
    return {rank_text(rank, {}) + " has not joined the group",
            "start it, and see that it gives the same group name and world_size"};
  const auto& [loss, ago] = *former;
  return {fmt::format("{} had joined and {} {} ago", rank_text(rank, loss.process), loss.how,
                      muster::ipc::seconds_text(ago)),
          loss.has_left()
              ? "keep every rank in the group until the others no longer need it"
              : "see why it ended, and start it again; every rank must stay until the others no longer need it"};
}

Advice advice_of(int rank, const Whereabouts& known, const std::string& hint_if_it_waits) {
  if (known.process.empty()) return advice_of_absent(rank, known.former);
  const auto who = rank_text(rank, known.process);
  if (known.stopped) return {who + " is stopped", "let it go on: kill -CONT, or leave the debugger"};
  if (!known.lacks_memory.empty())
    return {fmt::format("{} waits for memory, as {}", who, known.lacks_memory),
            "free what is not needed any more, or give the daemon more memory; muster ls shows who holds what"};
  if (!known.waits_in.empty()) return {fmt::format("{} waits in {}", who, known.waits_in), hint_if_it_waits};
  return {who + " waits in no op of the group", "see what it does; give a longer timeout= if it is only slow"};
}

}  // namespace

std::string quoted_key(const std::string& key) {
  constexpr std::size_t shown_max = 128;
  return key.empty() ? std::string() : " '" + muster::ipc::cut(key, shown_max) + "'";
}

std::string op_name(const Contribution& contribution, std::uint64_t sequence) {
  std::string kind(name(contribution.kind));
  const std::string key = quoted_key(contribution.key);
  if (is_pairwise(contribution.kind)) {
    const bool sends = contribution.kind == Kind::send;
    const int source = sends ? contribution.rank : contribution.root;
    const int destination = sends ? contribution.root : contribution.rank;
    return "send " + std::to_string(source) + "->" + std::to_string(destination) + " tag " +
           std::to_string(contribution.tag) + key;
  }
  if (contribution.kind == Kind::reform) return kind;
  return kind + (key.empty() ? " #" + std::to_string(sequence) : key);
}

std::string ranks_text(std::span<const int> ranks) {
  if (ranks.empty()) return "no rank";
  return (ranks.size() == 1 ? "rank " : "ranks ") + list(ranks);
}

Error lost_while_awaited(const std::string& op_name, const Losses& losses) {
  return Error(Code::peer_lost, fmt::format("{} waited for a rank that is lost: {}", op_name, losses_text(losses)),
               "call reform() on every live rank to go on without it", ranks_of(losses));
}

Error lost_before_called(const std::string& op_name, const Losses& losses) {
  return Error(Code::peer_lost,
               fmt::format("{} can't start, the group has lost ranks: {}", op_name, losses_text(losses)),
               "call reform() on every live rank to go on without them", ranks_of(losses));
}

Error needed_one_lost(const std::string& op_name, const Losses& lost) {
  return Error(Code::peer_lost, fmt::format("{} needs a rank that is lost: {}", op_name, losses_text(lost)),
               "call it again on every live rank with a root or peer among group.live; reform() begins an epoch of the "
               "live ranks, which a replacement can join",
               ranks_of(lost));
}

Error not_members(const std::string& op_name, std::span<const int> ranks) {
  return Error(Code::peer_lost,
               fmt::format("{} needs {}, which is not a live member of this epoch", op_name, ranks_text(ranks)),
               "choose a root or peer among group.live", {ranks.begin(), ranks.end()});
}

Error not_replaced(const std::string& op_name, std::span<const int> vacant, const Losses& losses) {
  return Error(Code::peer_lost,
               fmt::format("{} reached its deadline and nobody took the seat of a lost rank: {}", op_name,
                           losses_text(vacant, losses)),
               "start a replacement that joins with that rank, or call reform() to go on without it",
               {vacant.begin(), vacant.end()});
}

Error deadline_passed(const std::string& op_name, std::span<const int> missing, std::span<const int> present,
                      Duration waited, const std::map<int, Whereabouts>& known) {
  std::string message = fmt::format("{} waited {} for {}; {} {} there", op_name, muster::ipc::seconds_text(waited),
                                    ranks_text(missing), ranks_text(present), present.size() == 1 ? "was" : "were");
  std::string hint = "see what the missing ranks do; give a longer timeout= if they are only slow";
  for (const auto& [rank, whereabouts] : known) {
    const auto [does, advice] = advice_of(rank, whereabouts,
                                          "every rank must call the same collectives in the same order; where threads "
                                          "make order unsure, match calls by key=");
    message += "; " + does;
    if (rank == known.begin()->first) hint = advice;
  }
  return Error(Code::timeout, std::move(message), std::move(hint), {missing.begin(), missing.end()});
}

std::string call_text(const PairCall& call) {
  return fmt::format("{} rank {} with tag {}{}", call.sends ? "send to" : "recv from", call.peer, call.tag,
                     call.quoted_key.empty() ? "" : " and key" + call.quoted_key);
}

Error peer_did_not_come(const PairCall& called, Duration waited, const std::map<int, Whereabouts>& known) {
  const PairCall missing{!called.sends, called.peer, called.caller, called.tag, called.quoted_key};
  const bool to_itself = called.peer == called.caller;
  std::string message =
      fmt::format("{} called {} and waited {} for {} {}", rank_text(called.caller, {}), call_text(called),
                  muster::ipc::seconds_text(waited), to_itself ? "its own" : rank_text(called.peer, {}) + " to call",
                  call_text(missing));
  if (to_itself)
    return Error(Code::timeout, std::move(message),
                 "call both before you wait for one of them, with the same tag and key: what a rank sends to itself "
                 "needs a recv on that rank",
                 {called.peer});
  std::string hint =
      fmt::format("see what {} does; give a longer timeout= if it is only slow", rank_text(called.peer, {}));
  if (const auto found = known.find(called.peer); found != known.end()) {
    auto [does, advice] =
        advice_of(called.peer, found->second,
                  "compare source, destination, tag and key of the two calls, and the order of the calls");
    message += "; " + does;
    hint = std::move(advice);
  }
  return Error(Code::timeout, std::move(message), std::move(hint), {called.peer});
}

Error no_input(const std::string& op_name, int rank, const Error& cause) {
  return Error(cause.code(),
               fmt::format("{} can't work: rank {} has no input for it: {}", op_name, rank, cause.message()),
               "correct the call on that rank; the op has failed on every rank", {rank});
}

Error too_many_in_flight(const std::string& op_name, int rank, std::size_t in_flight_max) {
  return Error(Code::quota_exceeded,
               fmt::format("{} is one too many: rank {} has {} ops pending already", op_name, rank, in_flight_max),
               "wait for some results before starting more", {rank});
}

Error too_far_behind(const std::string& op_name, std::span<const int> missing, std::size_t behind) {
  return Error(Code::quota_exceeded,
               fmt::format("{} is given up: {} {} fallen {} ops behind the others", op_name, ranks_text(missing),
                           missing.size() == 1 ? "has" : "have", behind),
               "wait for some results before starting more", {missing.begin(), missing.end()});
}

Error outcome_forgotten(const std::string& op_name, int rank, std::size_t history_max, Code code) {
  return Error(code,
               fmt::format("{} failed long before rank {} called it, and its outcome is no longer kept (the last {} "
                           "are, if there is memory for them)",
                           op_name, rank, history_max),
               "call collectives at the same pace on every rank", {rank});
}

}  // namespace musterd
