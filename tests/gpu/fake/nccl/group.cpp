#include "group.hpp"

#include <algorithm>
#include <iterator>

namespace fake_nccl {
namespace {

struct CommunicatorOperations {
  std::shared_ptr<Communicator> communicator;
  std::vector<Operation> operations;
};

struct Group {
  int depth = 0;
  ncclResult_t failure = ncclSuccess;
  std::vector<Job> jobs;
  std::vector<CommunicatorOperations> operations;
};

Group& group() {
  thread_local Group own;
  return own;
}

ncclResult_t result_of(const std::function<void()>& run) noexcept {
  try {
    run();
    return ncclSuccess;
  } catch (const Failure& failure) {
    warn(failure.text);
    return failure.code;
  } catch (const std::exception& error) {
    warn(error.what());
    return ncclInternalError;
  }
}

ncclResult_t run_job(const Job& job) {
  const auto result = result_of(job.run);
  if (job.after) job.after(result);
  return result;
}

void run_in_background(Job job) {
  const auto communicator = job.communicator;
  communicator->set_state(ncclInProgress);
  communicator->worker.post([job = std::move(job)] {
    const auto result = run_job(job);
    job.communicator->set_state(result);
  });
}

/// Jobs wait for each other, so each has a thread. One alone runs here.
ncclResult_t run_together(const std::vector<Job>& jobs) {
  if (jobs.size() == 1) return run_job(jobs.front());
  std::vector<ncclResult_t> results(jobs.size());
  std::vector<std::thread> threads;
  for (std::size_t at = 0; at < jobs.size(); ++at) threads.emplace_back([&, at] { results[at] = run_job(jobs[at]); });
  for (auto& thread : threads) thread.join();
  const auto failed = std::find_if(results.begin(), results.end(), [](auto result) { return result != ncclSuccess; });
  return failed == results.end() ? ncclSuccess : *failed;
}

ncclResult_t run_all(std::vector<Job> jobs) {
  const auto waits = [](const Job& job) { return job.waits || job.communicator->blocking(); };
  const auto background = std::stable_partition(jobs.begin(), jobs.end(), waits);
  std::vector<Job> later(std::make_move_iterator(background), std::make_move_iterator(jobs.end()));
  jobs.erase(background, jobs.end());
  const auto result = jobs.empty() ? ncclSuccess : run_together(jobs);
  if (later.empty() || result != ncclSuccess) return result;
  for (auto& job : later) run_in_background(std::move(job));
  return ncclInProgress;
}

Job job_of(CommunicatorOperations& part) {
  const bool connects = std::any_of(part.operations.begin(), part.operations.end(),
                                    [](const Operation& operation) { return operation.collective(); });
  return {part.communicator,
          [communicator = part.communicator, connects, operations = part.operations] {
            if (connects) communicator->connect();
            launch(communicator, operations);
          },
          nullptr, false};
}

void require_one_mode(const std::vector<Job>& jobs) {
  for (const auto& job : jobs)
    require_argument(job.communicator->blocking() == jobs.front().communicator->blocking(),
                     "Blocking and nonblocking communicators are not allowed in the same group.");
}

}  // namespace

ncclResult_t submit(Job job) {
  auto& own = group();
  if (own.depth == 0) {
    std::vector<Job> jobs;
    jobs.push_back(std::move(job));
    return run_all(std::move(jobs));
  }
  own.jobs.push_back(std::move(job));
  return ncclSuccess;
}

ncclResult_t submit(const std::shared_ptr<Communicator>& communicator, Operation operation) {
  auto& own = group();
  CommunicatorOperations alone{communicator, {operation}};
  if (own.depth == 0) return run_all({job_of(alone)});
  const auto known = std::find_if(own.operations.begin(), own.operations.end(),
                                  [&](const auto& part) { return part.communicator == communicator; });
  if (known != own.operations.end()) known->operations.push_back(std::move(operation));
  else own.operations.push_back(std::move(alone));
  return ncclSuccess;
}

void start_group() { ++group().depth; }

void fail_group(ncclResult_t code) {
  auto& own = group();
  if (own.depth > 0 && own.failure == ncclSuccess) own.failure = code;
}

// "Group Calls": nothing starts before the last end; if a call in the group has failed, nothing starts at all. Calls
// that make communicators can't be in one group with others.
ncclResult_t end_group() {
  auto& own = group();
  require(own.depth > 0, ncclInvalidUsage, "ncclGroupEnd: not in a group call.");
  if (--own.depth > 0) return ncclSuccess;
  auto ended = std::exchange(own, {});
  if (ended.failure != ncclSuccess) return ended.failure;
  require(ended.jobs.empty() || ended.operations.empty(), ncclInvalidUsage,
          "a group can't both make communicators and communicate");
  for (auto& part : ended.operations) ended.jobs.push_back(job_of(part));
  require_one_mode(ended.jobs);
  return run_all(std::move(ended.jobs));
}

}  // namespace fake_nccl
