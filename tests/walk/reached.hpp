// What a fuzz target or a walk has reached, and how often: requests, records, kinds of ops, outcomes. tests/run
// compares it with the list next to the target.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>

#include <muster/ipc/records.hpp>
#include <muster/ipc/wire_generated.h>
#include <muster/result.hpp>

namespace musterd::testing {

class Reached {
 public:
  void note(std::string what) { ++counts_[std::move(what)]; }
  [[nodiscard]] bool has(const std::string& what) const { return counts_.contains(what); }
  void print() const {
    for (const auto& [what, count] : counts_)
      std::fprintf(stderr, "reached %9llu %s\n", static_cast<unsigned long long>(count), what.c_str());
  }

 private:
  std::map<std::string, std::uint64_t> counts_;
};

/// Prints the counts when the fuzzer's process ends.
class ReachedAtExit : public Reached {
 public:
  ReachedAtExit() = default;
  ReachedAtExit(const ReachedAtExit&) = delete;
  ReachedAtExit& operator=(const ReachedAtExit&) = delete;
  ~ReachedAtExit() { print(); }
};

/// Returns "Ok", "Joined", ..., or the error's name of a Failure or a Goodbye.
inline std::string answer_text(const muster::ipc::wire::Frame& frame) {
  namespace wire = muster::ipc::wire;
  if (const auto* failure = frame.body_as_Failure())
    return std::string(muster::name(static_cast<muster::Code>(failure->code())));
  if (const auto* goodbye = frame.body_as_Goodbye())
    return "Goodbye " + std::string(muster::name(static_cast<muster::Code>(goodbye->code())));
  return wire::EnumNameBody(frame.body_type());
}

inline const char* name(muster::ipc::SubmissionType type) {
  using enum muster::ipc::SubmissionType;
  switch (type) {
    case seal: return "seal";
    case contribute: return "contribute";
    case release: return "release";
    case combine: return "combine";
    case pin: return "pin";
    case unmapped: return "unmapped";
    case hand_over: return "hand_over";
  }
  return "unknown";
}

inline const char* name(muster::ipc::CompletionType type) {
  using enum muster::ipc::CompletionType;
  switch (type) {
    case done: return "done";
    case failed: return "failed";
    case object_gone: return "object_gone";
    case seal_failed: return "seal_failed";
    case group_changed: return "group_changed";
    case segment_gone: return "segment_gone";
    case memory_wanted: return "memory_wanted";
    case in_place_over: return "in_place_over";
  }
  return "unknown";
}

}  // namespace musterd::testing
