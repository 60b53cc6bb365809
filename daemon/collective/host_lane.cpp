#include "collective/host_lane.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "collective/kernels/reduce.hpp"

namespace musterd {

namespace {

/// How many bytes one chunk reads and writes. It is about what an L2 cache holds. It takes tens of microseconds, so
/// taking a chunk off the queue costs little beside it.
constexpr std::uint64_t chunk_bytes = std::uint64_t{1} << 20;
/// The same while lanes give way: a few microseconds.
constexpr std::uint64_t brief_chunk_bytes = std::uint64_t{128} << 10;
constexpr auto give_way_time = std::chrono::milliseconds(1);
/// A piece with fewer output bytes isn't worth a second thread.
constexpr std::uint64_t output_bytes_min = std::uint64_t{64} << 10;
/// A chunk of many inputs touches no more than this, however few output bytes it makes, as others wait for it.
constexpr std::uint64_t touched_bytes_max = std::uint64_t{4} << 20;
constexpr std::uint64_t cache_line = 64;
/// The cost of beginning a task, about 100 ns, in bytes that could be read and written meanwhile.
constexpr std::uint64_t task_bytes = std::uint64_t{2} << 10;

std::uint64_t round_down(std::uint64_t number, std::uint64_t unit) { return number / unit * unit; }

std::uint64_t output_size(const Fold& fold) { return muster::size_of(*muster::result_dtype(fold.dtype, fold.op)); }

/// How many outputs a fold writes.
std::uint64_t outputs_of(const Fold& fold) { return std::max(fold.prefixes, 1U); }

/// Folds elements [first, first + count).
void run_fold(const Job& job, const Fold& fold, std::uint64_t first, std::uint64_t count) {
  const std::uint64_t into = fold.offset + first * output_size(fold);
  std::array<const std::byte*, contributions_max> inputs;  // NOLINT: only the first few are used
  for (std::size_t rank = 0; rank < fold.ranks; ++rank)
    inputs[rank] = host_address(job.work.inputs[fold.first_input + rank]) + first * muster::size_of(fold.dtype);
  kernels::Reduce call{fold.dtype, fold.op, std::span(inputs).first(fold.ranks), nullptr, count};
  if (fold.prefixes == 0) {
    call.output = host_address(job.outputs[fold.output]) + into;
    // The size of the whole output decides whether it bypasses the caches, not that of the chunk.
    if (fold.count * output_size(fold) >= call.stream_bytes_min) call.stream_bytes_min = 0;
    return kernels::reduce(call);
  }
  std::array<std::byte*, contributions_max> prefixes;  // NOLINT: the same
  const std::size_t unwanted = fold.ranks - fold.prefixes;
  for (std::size_t rank = 0; rank < fold.ranks; ++rank)
    prefixes[rank] = rank < unwanted ? nullptr : host_address(job.outputs[fold.output + rank - unwanted]) + into;
  call.prefixes = std::span(prefixes).first(fold.ranks);
  kernels::reduce(call);
}

void run_copy(const Job& job, const CopyBytes& copy, std::uint64_t first, std::uint64_t bytes) {
  std::memcpy(host_address(job.outputs[copy.output]) + copy.offset + first, host_address(copy.source) + first, bytes);
}

}  // namespace

/// A position between two elements of a job's tasks, which are its folds and then its copies.
struct HostLane::Cursor {
  std::size_t task = 0;
  std::uint64_t element = 0;  ///< in a copy: the byte
};

struct HostLane::Chunk {
  Cursor begin;
  Cursor end;
  std::uint64_t bytes = 0;  ///< what it costs
};

/// A job and its progress. run() is called without the lane's mutex, all other functions with it.
class HostLane::Running {
 public:
  explicit Running(Job job) : job_(std::move(job)) { skip_finished(); }

  [[nodiscard]] JobId id() const { return job_.id; }
  [[nodiscard]] bool exhausted() const { return at_.task == tasks(); }
  /// Drops the chunks that have not begun.
  void cancel() {
    cancelled_ = true;
    at_ = {tasks(), 0};
  }
  /// True if no chunk of the job runs, and none will.
  [[nodiscard]] bool over() const { return running_ == 0 && exhausted(); }

  [[nodiscard]] bool is_small() const {
    std::uint64_t bytes = 0;
    for (std::size_t task = 0; task < tasks() && bytes <= chunk_bytes; ++task)
      bytes += task_bytes + count_of(task) * touched_by(task);
    return bytes <= chunk_bytes;
  }

  /// The next stretch: many small tasks, or a part of a large one.
  Chunk next(std::uint64_t chunk_budget) {
    MUSTER_ASSERT(!exhausted(), "a job on a queue has work left");
    Chunk chunk{at_, at_};
    while (!exhausted() && chunk.bytes < chunk_budget) {
      const std::uint64_t count = piece(chunk_budget - chunk.bytes, chunk.bytes == 0);
      if (count == 0) break;
      chunk.bytes += task_bytes + count * touched_by(at_.task);
      at_.element += count;
      chunk.end = at_;
      skip_finished();
    }
    ++running_;
    return chunk;
  }

  void chunk_finished() { --running_; }

  std::optional<JobTurns::Handle> turn;  ///< while it waits for its turn, with chunks left

  void run(const Chunk& chunk) const {
    for (std::size_t task = chunk.begin.task; task <= chunk.end.task; ++task) {
      const std::uint64_t first = task == chunk.begin.task ? chunk.begin.element : 0;
      const std::uint64_t last = task == chunk.end.task ? chunk.end.element : count_of(task);
      if (first == last) continue;
      if (is_fold(task)) run_fold(job_, fold_at(task), first, last - first);
      else run_copy(job_, copy_at(task), first, last - first);
    }
  }

  void tell_end() const {
    if (cancelled_) return job_.ended({muster::Error(muster::Code::failed, "the job was cancelled")});
    job_.ended({});
  }

  /// Sets what is posted when the job ends. It holds this job, and this holds it: so it has to be taken, or both leak.
  void set_end(Errand end) noexcept { end_ = std::move(end); }
  [[nodiscard]] Errand take_end() noexcept { return std::exchange(end_, {}); }

 private:
  [[nodiscard]] std::size_t tasks() const { return job_.work.folds.size() + job_.work.copies.size(); }
  [[nodiscard]] bool is_fold(std::size_t task) const { return task < job_.work.folds.size(); }
  [[nodiscard]] const Fold& fold_at(std::size_t task) const { return job_.work.folds[task]; }
  [[nodiscard]] const CopyBytes& copy_at(std::size_t task) const {
    return job_.work.copies[task - job_.work.folds.size()];
  }
  [[nodiscard]] std::uint64_t count_of(std::size_t task) const {
    return is_fold(task) ? fold_at(task).count : copy_at(task).bytes;
  }
  /// Bytes of one element in each output.
  [[nodiscard]] std::uint64_t element_size(std::size_t task) const {
    return is_fold(task) ? output_size(fold_at(task)) : 1;
  }
  /// Bytes of one element in all outputs together.
  [[nodiscard]] std::uint64_t written_by(std::size_t task) const {
    return is_fold(task) ? output_size(fold_at(task)) * outputs_of(fold_at(task)) : 1;
  }
  /// Bytes that one element reads and writes.
  [[nodiscard]] std::uint64_t touched_by(std::size_t task) const {
    if (!is_fold(task)) return 2;
    return fold_at(task).ranks * muster::size_of(fold_at(task).dtype) + written_by(task);
  }

  /// How many elements of the current task go into a chunk with `budget` bytes left: all, or whole cache lines.
  [[nodiscard]] std::uint64_t piece(std::uint64_t budget, bool fresh) const {
    const std::uint64_t left = count_of(at_.task) - at_.element;
    const std::uint64_t line = cache_line / element_size(at_.task);
    const std::uint64_t worth_it =
        std::min(output_bytes_min / written_by(at_.task), touched_bytes_max / touched_by(at_.task));
    const std::uint64_t least = std::max(worth_it / line, std::uint64_t{1}) * line;
    std::uint64_t count = round_down(budget / touched_by(at_.task), line);
    if (fresh) count = std::max(count, least);
    if (count >= left) return left;
    return count < least ? 0 : count;
  }

  void skip_finished() {
    while (!exhausted() && at_.element == count_of(at_.task)) at_ = {at_.task + 1, 0};
  }

  Job job_;
  Errand end_;
  Cursor at_;
  std::size_t running_ = 0;  ///< chunks
  bool cancelled_ = false;
};

HostLane::HostLane(unsigned threads, std::function<void(Errand)> post, std::function<void(unsigned thread)> place)
    : post_(std::move(post)), place_(std::move(place)), watch_({Clock::now, thread_usage}) {
  // Only the control thread takes signals: the threads inherit a mask that blocks all.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (unsigned thread = 0; thread < std::max(threads, 1U); ++thread)
    threads_.emplace_back([this, thread] { work(thread); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

HostLane::~HostLane() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  for (const auto& [id, running] : jobs_) static_cast<void>(running->take_end());
}

std::optional<Duration> HostLane::run_at_once(const Job& job) {
  return watch_.held_up([&] { run_all(job); });
}

void HostLane::start(Job job, TimePoint /*deadline*/) {
  const Process process = job.process;
  const auto running = std::make_shared<Running>(std::move(job));
  // It is made here, as a thread could tell nobody that there is no memory for it.
  auto end = errand([this, running] {
    --untold_;
    running->tell_end();
  });
  const bool small = running->is_small();
  bool over = false;
  {
    std::lock_guard lock(mutex_);
    const auto [place, fresh] = jobs_.try_emplace(running->id(), running);
    MUSTER_ASSERT(fresh, "jobs have numbers of their own");
    over = running->over();
    try {
      if (!over) running->turn = turns_.add(process, small ? JobTurns::Size::small : JobTurns::Size::large, running);
    } catch (const std::bad_alloc&) {
      jobs_.erase(place);
      throw;
    }
    running->set_end(std::move(end));
    ++untold_;
  }
  if (over) post_end(running);
  else if (small) wake_.notify_one();
  else wake_.notify_all();
}

void HostLane::cancel(JobId job) noexcept {
  RunningPtr over;
  {
    std::lock_guard lock(mutex_);
    const auto found = jobs_.find(job);
    if (found == jobs_.end()) return;
    Running& running = *found->second;
    running.cancel();
    if (running.over()) over = found->second;
    // It would keep its work and its places until its turn, and nobody is charged for it any more.
    if (running.turn) turns_.remove(*std::exchange(running.turn, std::nullopt));
  }
  if (over) post_end(std::move(over));
}

/// Posts that the job has ended. Several threads may call this; the first one posts.
void HostLane::post_end(RunningPtr running) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (jobs_.erase(running->id()) == 0) return;
  }
  auto end = running->take_end();
  running.reset();  // what the job holds is destroyed on the control thread
  post_(std::move(end));
}

void HostLane::work(unsigned thread) {
  pthread_setname_np(pthread_self(), fmt::format("muster-lane-{}", thread).substr(0, 15).c_str());
  place_(thread);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || !turns_.empty(); });
    if (stopping_) return;
    auto running = turns_.front();
    const bool brief = give_way_until_.load(std::memory_order_relaxed) > std::chrono::steady_clock::now();
    const Chunk chunk = running->next(brief ? brief_chunk_bytes : chunk_bytes);
    const bool is_last = running->exhausted();
    if (is_last) running->turn.reset();
    turns_.served(chunk.bytes, is_last ? JobTurns::Rest::nothing : JobTurns::Rest::more);
    lock.unlock();
    running->run(chunk);
    if (brief) sched_yield();
    lock.lock();
    running->chunk_finished();
    if (!running->over()) {
      running.reset();
      continue;
    }
    lock.unlock();
    post_end(std::move(running));
    lock.lock();
  }
}

void HostLane::give_way() {
  give_way_until_.store(std::chrono::steady_clock::now() + give_way_time, std::memory_order_relaxed);
}

std::string HostLane::instruction_set() { return kernels::instruction_set(); }

void HostLane::run_all(const Job& job) {
  for (const Fold& fold : job.work.folds)
    if (fold.count > 0) run_fold(job, fold, 0, fold.count);
  for (const CopyBytes& copy : job.work.copies)
    if (copy.bytes > 0) run_copy(job, copy, 0, copy.bytes);
}

}  // namespace musterd
