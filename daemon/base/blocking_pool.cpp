#include "base/blocking_pool.hpp"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace musterd {

namespace {

constexpr auto idle_time = std::chrono::seconds(10);
constexpr auto stop_time = std::chrono::seconds(2);

/// So many jobs of one lane run at once. More than one, so that one that hangs does not stop the rest of its user's.
constexpr std::size_t width(BlockingPool::Lane::Of of) {
  switch (of) {
    case BlockingPool::Lane::Of::requests: return 1;
    case BlockingPool::Lane::Of::closing: return 8;
    case BlockingPool::Lane::Of::memory: return 2;
  }
  return 1;
}

}  // namespace

struct BlockingPool::State : std::enable_shared_from_this<State> {
  struct Job {
    Lane lane;
    std::function<void()> work;
    std::function<void()> then;
  };
  struct Queue {
    std::deque<Job> waiting;
    std::size_t running = 0;
  };

  void add(Job job) {
    auto& queue = lanes[job.lane];
    if (queue.running >= width(job.lane.of)) {
      queue.waiting.push_back(std::move(job));
      return;
    }
    ++queue.running;
    ready.push_back(std::move(job));
    if (idle >= ready.size() || threads >= threads_max) wake.notify_one();
    else start_thread();
  }

  void start_thread() {
    // Signals are the control thread's.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ++threads;
    try {
      std::thread([self = shared_from_this()] { self->work_until_idle(); }).detach();
    } catch (const std::system_error&) {
      --threads;  // the system has none left; those that are there come to it
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void work_until_idle() {
    pthread_setname_np(pthread_self(), "muster-blocking");
    std::unique_lock lock(mutex);
    while (true) {
      ++idle;
      const bool more = wake.wait_for(lock, idle_time, [&] { return stopping || !ready.empty(); }) && !ready.empty();
      --idle;
      if (!more && threads == 1 && !stopping) continue;  // one is always there
      if (!more) break;
      Job job = std::move(ready.front());
      ready.pop_front();
      lock.unlock();
      try {
        job.work();
      } catch (const std::exception&) {
        // The heap has ended. What follows finds that nothing was done.
      }
      job.work = nullptr;
      lock.lock();
      ended(std::move(job));
    }
    --threads;
    changed.notify_all();
  }

  void ended(Job job) {
    auto found = lanes.find(job.lane);
    auto& queue = found->second;
    if (!queue.waiting.empty()) {
      ready.push_back(std::move(queue.waiting.front()));
      queue.waiting.pop_front();
    } else if (--queue.running == 0) {
      lanes.erase(found);
    }
    // What `then` holds belongs to the control thread, which may be gone: it is not destroyed here.
    if (post) post(std::move(job.then));
    else left.push_back(std::move(job.then));
    changed.notify_all();
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable changed;
  Post post;
  std::size_t threads_max = 0;
  std::size_t threads = 0;
  std::size_t idle = 0;
  bool stopping = false;
  std::deque<Job> ready;
  std::map<Lane, Queue> lanes;
  std::vector<std::function<void()>> left;
};

BlockingPool::BlockingPool(Post post, std::size_t threads_max) : state_(std::make_shared<State>()) {
  state_->post = std::move(post);
  state_->threads_max = threads_max;
  const std::lock_guard lock(state_->mutex);
  state_->start_thread();
}

BlockingPool::~BlockingPool() { stop(); }

void BlockingPool::run(Lane lane, std::function<void()> work, std::function<void()> then) {
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->stopping) return state_->add({lane, std::move(work), std::move(then)});
  }
  work();
}

void BlockingPool::stop() {
  std::unique_lock lock(state_->mutex);
  if (std::exchange(state_->stopping, true)) return;
  state_->post = nullptr;
  state_->wake.notify_all();
  if (state_->changed.wait_for(lock, stop_time, [&] { return state_->threads == 0; })) return state_->left.clear();
  // Something hangs in the kernel. Its thread goes on with what it has; the process ends without it.
  static std::vector<std::shared_ptr<State>> abandoned;
  abandoned.push_back(state_);
}

}  // namespace musterd
