// Touches the pages of new segments ahead of their first use, on a thread of its own. Page faults cost more than the
// arithmetic, and neither the control thread nor a lane should take them. It only makes things faster; nothing relies
// on it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "memory/backing.hpp"

namespace musterd {

class Populator {
 public:
  Populator();
  Populator(const Populator&) = delete;
  Populator& operator=(const Populator&) = delete;
  /// Ends after the current chunk; memory that is still queued is not populated.
  ~Populator();

  /// Queues memory that the daemon has at its own addresses. The memory may end at any time. A full queue leaves it
  /// out; its pages then come with their first use.
  void populate(const SegmentMemoryPtr& memory);
  /// Returns once the queue is empty and nothing is being populated.
  void wait_until_idle();

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::weak_ptr<SegmentMemory>> queue_;
  bool busy_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace musterd
