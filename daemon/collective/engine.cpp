#include "collective/engine.hpp"

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "base/assert.hpp"
#include "collective/kernels/reduce.hpp"

namespace musterd {

namespace {

/// Bytes that one chunk reads and writes: about what an L2 holds, and long enough (tens of microseconds) to make
/// taking it off the queue cheap.
constexpr std::uint64_t chunk_bytes = std::uint64_t{1} << 20;
/// Fewer output bytes aren't worth a second thread.
constexpr std::uint64_t output_bytes_min = std::uint64_t{64} << 10;
constexpr std::uint64_t cache_line = 64;
/// So many small jobs may pass a large one before it has its turn.
constexpr unsigned small_in_a_row_max = 8;

std::uint64_t round_down(std::uint64_t number, std::uint64_t unit) { return number / unit * unit; }

/// Output elements of a fold that make one chunk: whole cache lines of the output.
std::uint64_t chunk_count(const Fold& fold) {
  const std::uint64_t output_size = muster::size_of(*muster::result_dtype(fold.dtype, fold.op));
  const std::uint64_t touched = muster::size_of(fold.dtype) * fold.inputs.size() + output_size;
  const std::uint64_t unit = cache_line / output_size;
  return std::max({round_down(chunk_bytes / touched, unit), output_bytes_min / output_size, unit});
}

void run_fold(const Job::FoldTask& task, std::uint64_t first, std::uint64_t count) {
  const Fold& fold = task.fold;
  const std::size_t output_size = muster::size_of(*muster::result_dtype(fold.dtype, fold.op));
  std::vector<const std::byte*> moved;
  if (first > 0)
    for (const std::byte* input : fold.inputs) moved.push_back(input + first * muster::size_of(fold.dtype));
  const std::span inputs(first > 0 ? moved : fold.inputs);
  kernels::Reduce call{fold.dtype, fold.op, inputs, task.output + first * output_size, count};
  // Whether the output bypasses the caches depends on the whole, not on the chunk.
  if (fold.count * output_size >= call.stream_bytes_min) call.stream_bytes_min = 0;
  kernels::reduce(call);
}

void run_copy(const Job::CopyTask& task, std::uint64_t first, std::uint64_t bytes) {
  std::memcpy(task.output + first, task.source + first, bytes);
}

}  // namespace

/// A stretch of one task.
struct Engine::Chunk {
  std::size_t task = 0;  ///< folds first, then copies
  std::uint64_t first = 0;
  std::uint64_t count = 0;  ///< elements of a fold, bytes of a copy
};

/// A job and how far it is. next() and finished() are called under the engine's mutex, run() outside it.
class Engine::Running {
 public:
  explicit Running(Job job) : job_(std::move(job)) { skip_empty(); }

  [[nodiscard]] bool exhausted() const { return task_ == tasks(); }
  [[nodiscard]] bool is_one_chunk() const { return task_ + 1 >= tasks() && (exhausted() || left() <= chunk_of(task_)); }

  Chunk next() {
    MUSTER_ASSERT(!exhausted(), "a job on the queue has chunks left");
    Chunk chunk{task_, first_, std::min(left(), chunk_of(task_))};
    first_ += chunk.count;
    ++running_;
    skip_empty();
    return chunk;
  }

  /// True if that was the last of them.
  bool finished() {
    --running_;
    return running_ == 0 && exhausted();
  }

  void run(const Chunk& chunk) const {
    if (chunk.task < job_.folds.size())
      run_fold(job_.folds[chunk.task], chunk.first, chunk.count);
    else
      run_copy(job_.copies[chunk.task - job_.folds.size()], chunk.first, chunk.count);
  }

  void call_done() const {
    if (job_.done) job_.done();
  }

 private:
  [[nodiscard]] std::size_t tasks() const { return job_.folds.size() + job_.copies.size(); }
  [[nodiscard]] std::uint64_t count_of(std::size_t task) const {
    return task < job_.folds.size() ? job_.folds[task].fold.count : job_.copies[task - job_.folds.size()].bytes;
  }
  [[nodiscard]] std::uint64_t chunk_of(std::size_t task) const {
    return task < job_.folds.size() ? chunk_count(job_.folds[task].fold) : chunk_bytes / 2;
  }
  [[nodiscard]] std::uint64_t left() const { return count_of(task_) - first_; }
  void skip_empty() {
    while (!exhausted() && left() == 0) {
      ++task_;
      first_ = 0;
    }
  }

  Job job_;
  std::size_t task_ = 0;
  std::uint64_t first_ = 0;
  std::size_t running_ = 0;
};

Engine::Engine(unsigned lanes, std::function<void(std::function<void()>)> post) : post_(std::move(post)) {
  // Signals are the control thread's: lanes inherit a mask without any.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (unsigned lane = 0; lane < std::max(lanes, 1U); ++lane) lanes_.emplace_back([this, lane] { work(lane); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Engine::~Engine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& lane : lanes_) lane.join();
}

void Engine::submit(Job job) {
  auto running = std::make_shared<Running>(std::move(job));
  if (running->exhausted()) return post_([running] { running->call_done(); });
  const bool small = running->is_one_chunk();
  {
    std::lock_guard lock(mutex_);
    (small ? small_ : large_).push_back(std::move(running));
  }
  if (small)
    wake_.notify_one();
  else
    wake_.notify_all();
}

/// Small jobs first, but not for ever. Null: nothing to do.
std::deque<std::shared_ptr<Engine::Running>>* Engine::next_queue() {
  const bool small = !small_.empty() && (large_.empty() || small_in_a_row_ < small_in_a_row_max);
  small_in_a_row_ = small ? small_in_a_row_ + 1 : 0;
  if (small) return &small_;
  return large_.empty() ? nullptr : &large_;
}

void Engine::work(unsigned lane) {
  pthread_setname_np(pthread_self(), ("muster-lane-" + std::to_string(lane)).substr(0, 15).c_str());
  std::unique_lock lock(mutex_);
  while (true) {
    std::deque<std::shared_ptr<Running>>* queue = nullptr;
    wake_.wait(lock, [&] { return stopping_ || (queue = next_queue()) != nullptr; });
    if (stopping_) return;
    auto running = std::move(queue->front());
    queue->pop_front();
    const Chunk chunk = running->next();
    if (!running->exhausted()) queue->push_back(running);
    lock.unlock();
    running->run(chunk);
    lock.lock();
    if (!running->finished()) {
      running.reset();
      continue;
    }
    lock.unlock();
    post_([running = std::move(running)] { running->call_done(); });
    lock.lock();
  }
}

void Engine::run_inline(const Job& job) {
  for (const Job::FoldTask& task : job.folds)
    if (task.fold.count > 0) run_fold(task, 0, task.fold.count);
  for (const Job::CopyTask& task : job.copies)
    if (task.bytes > 0) run_copy(task, 0, task.bytes);
}

}  // namespace musterd
