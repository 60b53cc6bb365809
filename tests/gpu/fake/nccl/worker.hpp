// A thread that does the calls of a communicator that isn't blocking, one after the other.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "device.hpp"

namespace fake_nccl {

class Worker {
 public:
  explicit Worker(int device) : device_(device) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() { end(); }

  void post(std::function<void()> job);
  /// Does what was posted, and ends the thread.
  void end();

 private:
  void serve();

  int device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace fake_nccl
