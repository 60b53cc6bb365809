// A lane that does its work when it is told to, and fails, hangs or comes too late when it is told to. The suites of
// the session run once more with MUSTER_TEST_LANE=apart: then no job runs at once.
#pragma once

#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "collective/host_lane.hpp"
#include "collective/lane.hpp"

namespace musterd::testing {

class TestLane : public Lane {
 public:
  [[nodiscard]] std::optional<Duration> run_at_once(const Job& job) override {
    if (apart) return std::nullopt;
    run(job);
    return at_once_takes;
  }
  void start(Job job, TimePoint deadline) override {
    turns_of.push_back(job.process);
    deadlines.push_back(deadline);
    latest = job.id;
    jobs.emplace(job.id, Held{std::move(job), false});
  }
  void cancel(JobId job) noexcept override {
    if (const auto found = jobs.find(job); found != jobs.end()) found->second.cancelled = true;
  }

  // ---- what the test decides ----
  void finish(JobId id) {
    const Job job = take(id);
    run(job);
    job.ended({});
  }
  void fail(JobId id, const muster::Error& error) {
    const Job job = take(id);
    job.ended({error});
  }
  /// The job may touch memory until become_quiet().
  void fail_and_run_on(JobId id, const muster::Error& error) {
    auto& held = jobs.at(id);
    held.ended = true;
    const auto ended = held.job.ended;
    ended({error, false});
  }
  /// Touches everything that it was to write, as late as it can.
  void become_quiet(JobId id) {
    const Job job = take(id);
    run(job);
    job.quiet();
  }
  /// Ends the job in whatever way is left.
  void end(JobId id) { jobs.at(id).ended ? become_quiet(id) : finish(id); }
  void end_all() {
    while (!jobs.empty()) end(jobs.begin()->first);
  }

  struct Held {
    Job job;
    bool ended = false;
    bool cancelled = false;
  };
  std::map<JobId, Held> jobs;                               ///< those that are not quiet
  std::function<void(const Job&)> run = HostLane::run_all;  ///< does the work of a job
  JobId latest = 0;
  std::vector<Process> turns_of;     ///< for each started job, the process whose turns it took
  std::vector<TimePoint> deadlines;  ///< for each started job
  Duration at_once_takes{};          ///< for each small job
  bool hold = false;                 ///< jobs end only when the test says so
  bool apart = is_apart();

 private:
  static bool is_apart() {
    const char* chosen = std::getenv("MUSTER_TEST_LANE");
    return chosen && std::string_view(chosen) == "apart";
  }
  Job take(JobId id) { return std::move(jobs.extract(id).mapped().job); }
};

}  // namespace musterd::testing
