#include <catch2/catch.hpp>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "base/blocking_pool.hpp"

using musterd::BlockingPool;

namespace {

using Source = BlockingPool::Source;
constexpr Source first{Source::Of::requests, 1000, 1};
constexpr Source second{Source::Of::requests, 1000, 2};
constexpr std::size_t threads_max = BlockingPool::threads_of_each;

/// Keeps what the pool posts, and runs it on the test's thread.
class Control {
 public:
  void post(musterd::Errand errand) {
    {
      const std::lock_guard lock(mutex_);
      errands_.splice(errands_.end(), errand);
    }
    posted_.notify_one();
  }
  void run_one() {
    std::unique_lock lock(mutex_);
    posted_.wait(lock, [&] { return !errands_.empty(); });
    musterd::Errand errand;
    errand.splice(errand.end(), errands_, errands_.begin());
    lock.unlock();
    errand.front()();
  }

 private:
  std::mutex mutex_;
  std::condition_variable posted_;
  musterd::Errand errands_;
};

/// Blocks a job, as a client may block a job in the kernel.
class Gate {
 public:
  void open() {
    {
      const std::lock_guard lock(mutex_);
      open_ = true;
    }
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

}  // namespace

TEST_CASE("work runs on a thread of the pool, and its continuation runs where it was posted") {
  Control control;
  BlockingPool pool([&](auto errand) { control.post(std::move(errand)); });
  std::thread::id worked;
  std::thread::id followed;
  pool.run(
      first, [&] { worked = std::this_thread::get_id(); }, [&] { followed = std::this_thread::get_id(); });
  control.run_one();
  CHECK(worked != std::this_thread::get_id());
  CHECK(followed == std::this_thread::get_id());
}

TEST_CASE("a request that hangs holds up only requests of its own process") {
  Control control;
  Gate gate;
  std::vector<int> order;
  BlockingPool pool([&](auto errand) { control.post(std::move(errand)); });
  pool.run(
      first, [&] { gate.pass(); }, [&] { order.push_back(1); });
  pool.run(
      first, [] {}, [&] { order.push_back(2); });
  pool.run(
      second, [] {}, [&] { order.push_back(3); });
  control.run_one();
  CHECK(order == std::vector{3});
  gate.open();
  control.run_one();
  control.run_one();
  CHECK(order == std::vector{3, 1, 2});
}

namespace {

/// Jobs that hang until the gate is opened. Each is of another process, and there are more of them than threads.
constexpr int hanging = 2 * static_cast<int>(threads_max);
void hang(BlockingPool& pool, Gate& gate, Source::Of of, std::uint32_t user, int& followed) {
  for (std::uint64_t process = 1; process <= hanging; ++process)
    pool.run(
        {of, user, process}, [&] { gate.pass(); }, [&] { ++followed; });
}

}  // namespace

TEST_CASE("the number of threads is bounded, and a job that finds no free thread waits for one") {
  Control control;
  Gate gate;
  int followed = 0;
  BlockingPool pool([&](auto errand) { control.post(std::move(errand)); }, 2);
  hang(pool, gate, Source::Of::requests, 1000, followed);
  gate.open();
  for (int i = 0; i < hanging; ++i) control.run_one();
  CHECK(followed == hanging);
}

TEST_CASE("the hanging jobs of one process take one thread, however many they are") {
  Control control;
  Gate gate;
  int others = 0;
  BlockingPool pool([&](auto errand) { control.post(std::move(errand)); });
  for (int i = 0; i < 1000; ++i)
    pool.run(
        first, [&] { gate.pass(); }, [] {});
  for (std::uint64_t process = 2; process < 100; ++process)
    pool.run(
        {Source::Of::requests, 1000, process}, [] {}, [&] { ++others; });
  for (std::uint64_t process = 2; process < 100; ++process) control.run_one();
  CHECK(others == 98);
  gate.open();
}

TEST_CASE("the hanging jobs of one user leave threads for others, and for that user's other jobs") {
  Control control;
  Gate gate;
  int followed = 0;
  const auto of = GENERATE(Source::Of::requests, Source::Of::closing);
  BlockingPool pool([&](auto errand) { control.post(std::move(errand)); });
  for (std::uint32_t user = 1000; user < 1003; ++user) hang(pool, gate, of, user, followed);
  std::vector<int> done;
  pool.run(
      {of, 2000, 1}, [] {}, [&] { done.push_back(1); });
  control.run_one();
  pool.run(
      {Source::Of::memory, 1000, 1}, [] {}, [&] { done.push_back(2); });
  control.run_one();
  CHECK(done == std::vector{1, 2});
  CHECK(followed == 0);
  gate.open();
  for (int i = 0; i < 3 * hanging; ++i) control.run_one();
  CHECK(followed == 3 * hanging);
}

TEST_CASE("a stopped pool runs new work at once, and waits for jobs that still run") {
  Control control;
  bool ended = false;
  BlockingPool pool([&](auto errand) { control.post(std::move(errand)); });
  pool.run(
      first, [&] { ended = true; }, [] {});
  pool.stop();
  CHECK(ended);
  bool worked = false;
  pool.run(
      second, [&] { worked = true; }, [] {});
  CHECK(worked);
}

TEST_CASE("work that throws has its continuation, too") {
  Control control;
  BlockingPool pool([&](auto errand) { control.post(std::move(errand)); });
  int followed = 0;
  for (int i = 0; i < 2; ++i)
    pool.run(
        first, [] { throw std::bad_alloc(); }, [&] { ++followed; });
  control.run_one();
  control.run_one();
  CHECK(followed == 2);
}
