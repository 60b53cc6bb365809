#include "base/blocking_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <list>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace musterd {

namespace {

constexpr auto idle_time = std::chrono::seconds(10);
constexpr auto stop_time = std::chrono::seconds(2);
/// Jobs are a few calls deep. The rest of the stack is for sanitizers, and is never touched without them.
constexpr std::size_t stack_bytes = 256 << 10;

/// How many jobs of one source run at once.
constexpr std::size_t width(BlockingPool::Source::Of of) { return of == BlockingPool::Source::Of::memory ? 2 : 1; }

}  // namespace

struct BlockingPool::State : std::enable_shared_from_this<State> {
  // Jobs and lines are list nodes that move from list to list. So only add() takes memory, and it can say that there is
  // none.
  struct Job {
    Source source;
    std::function<void()> work;
    Errand then;
  };
  using Jobs = std::list<Job>;
  using Line = std::list<std::uint64_t>;  ///< of processes
  struct Queue {
    Jobs waiting;
    std::size_t running = 0;
    Line place;  ///< a node for its process, unless that is in the user's line
  };
  struct User {
    std::map<std::uint64_t, Queue> queues;  ///< by process
    Line line;                              ///< processes that could run something as soon as the user may
    std::size_t running = 0;
  };
  /// All of one kind.
  struct Kind {
    std::map<std::uint32_t, User> users;
    std::size_t running = 0;
  };

  [[nodiscard]] Kind& kind_of(Source::Of of) { return kinds[static_cast<std::size_t>(of)]; }

  /// Throws before it changes anything.
  void add(Jobs job) {
    const Source source = job.front().source;
    Line place{source.process};
    auto& users = kind_of(source.of).users;
    const auto user = users.try_emplace(source.user).first;
    try {
      const auto [queue, is_new] = user->second.queues.try_emplace(source.process);
      if (is_new) queue->second.place = std::move(place);
      queue->second.waiting.splice(queue->second.waiting.end(), job);
      stand_in_line(user->second, queue->second, source);
    } catch (...) {
      if (user->second.queues.empty()) users.erase(user);
      throw;
    }
    begin_of(source.of, source.user);
  }

  static void stand_in_line(User& user, Queue& queue, Source source) noexcept {
    if (queue.waiting.empty() || queue.running >= width(source.of)) return;
    user.line.splice(user.line.end(), queue.place);
  }

  /// A user may have half of the threads that others leave, and always one while one is free.
  [[nodiscard]] bool may_begin(const Kind& kind, const User& user) const {
    const std::size_t free_of_others = threads_of_each_max - (kind.running - user.running);
    return kind.running < threads_of_each_max && user.running < std::max<std::size_t>(free_of_others / 2, 1);
  }

  /// Begins what this user may begin now.
  void begin_of(Source::Of of, std::uint32_t id) noexcept {
    Kind& kind = kind_of(of);
    User& user = kind.users.at(id);
    while (!user.line.empty() && may_begin(kind, user)) {
      const Source source{of, id, user.line.front()};
      Queue& queue = user.queues.at(source.process);
      ready.splice(ready.end(), queue.waiting, queue.waiting.begin());
      queue.place.splice(queue.place.end(), user.line, user.line.begin());
      ++queue.running, ++user.running, ++kind.running;
      stand_in_line(user, queue, source);
      // There are as many threads as may run jobs, or one can be made.
      if (idle >= ready.size() || threads >= kinds.size() * threads_of_each_max || !start_thread()) wake.notify_one();
    }
  }

  /// False if the system has no thread left; the threads that exist do the work then.
  bool start_thread() noexcept {
    std::unique_ptr<std::shared_ptr<State>> self(new (std::nothrow) std::shared_ptr<State>(shared_from_this()));
    if (!self) return false;
    // Only the control thread takes signals.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    const bool started = pthread_create(&thread, &attributes, &work_in_thread, self.get()) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (!started) return false;
    static_cast<void>(self.release());
    ++threads;
    return true;
  }

  static void* work_in_thread(void* self) {
    const std::unique_ptr<std::shared_ptr<State>> state(static_cast<std::shared_ptr<State>*>(self));
    (*state)->work_until_idle();
    return nullptr;
  }

  void work_until_idle() {
    pthread_setname_np(pthread_self(), "muster-blocking");
    std::unique_lock lock(mutex);
    while (true) {
      ++idle;
      const bool more = wake.wait_for(lock, idle_time, [&] { return stopping || !ready.empty(); }) && !ready.empty();
      --idle;
      if (!more && threads == 1 && !stopping) continue;  // the last thread stays
      if (!more) break;
      Jobs job;
      job.splice(job.end(), ready, ready.begin());
      lock.unlock();
      try {
        job.front().work();
      } catch (const std::exception&) {
        // The heap has no memory left. `then` finds that nothing was done.
      }
      job.front().work = nullptr;
      lock.lock();
      ended(job.front());
    }
    --threads;
    changed.notify_all();
  }

  void ended(Job& job) noexcept {
    const Source source = job.source;
    Kind& kind = kind_of(source.of);
    User& user = kind.users.at(source.user);
    Queue& queue = user.queues.at(source.process);
    --queue.running, --user.running, --kind.running;
    stand_in_line(user, queue, source);
    if (queue.running == 0 && queue.waiting.empty()) user.queues.erase(source.process);
    // Other users come first, beginning with the next one.
    const auto next = kind.users.upper_bound(source.user);
    for (auto other = next; other != kind.users.end(); ++other) begin_of(source.of, other->first);
    for (auto other = kind.users.begin(); other != next; ++other) begin_of(source.of, other->first);
    if (user.queues.empty()) kind.users.erase(source.user);
    // What `then` holds belongs to the control thread, which may be gone. So it is not destroyed here.
    if (post) post(std::move(job.then));
    else left.splice(left.end(), job.then);
    changed.notify_all();
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable changed;
  Post post;
  std::size_t threads_of_each_max = 0;
  std::size_t threads = 0;
  std::size_t idle = 0;
  bool stopping = false;
  Jobs ready;
  std::array<Kind, 3> kinds;
  Errand left;
};

BlockingPool::BlockingPool(Post post, std::size_t threads_of_each_max) : state_(std::make_shared<State>()) {
  state_->post = std::move(post);
  state_->threads_of_each_max = threads_of_each_max;
  const std::lock_guard lock(state_->mutex);
  state_->start_thread();
}

BlockingPool::~BlockingPool() { stop(); }

void BlockingPool::run(Source source, std::function<void()> work, std::function<void()> then) {
  State::Jobs job;
  job.push_back({source, std::move(work), {}});
  job.front().then = errand(std::move(then));
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->stopping) return state_->add(std::move(job));
  }
  job.front().work();
}

void BlockingPool::stop() {
  std::unique_lock lock(state_->mutex);
  if (std::exchange(state_->stopping, true)) return;
  state_->post = nullptr;
  state_->wake.notify_all();
  if (state_->changed.wait_for(lock, stop_time, [&] { return state_->threads == 0; })) return state_->left.clear();
  // A call hangs in the kernel. Its thread keeps the state, and the process ends without waiting for it.
  static std::vector<std::shared_ptr<State>> abandoned;
  abandoned.push_back(state_);
}

}  // namespace musterd
