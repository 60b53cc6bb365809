// Streams: ordered queues with a thread each.
//
// All state is under the driver's one mutex. A stream's thread gives it up while it runs its work.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include <cuda.h>

#include "address_space.hpp"

namespace fake_gpu {

class Context;
class Stream;

/// A point of a stream: everything that was enqueued before it.
struct StreamPoint {
  std::shared_ptr<Stream> stream;
  std::uint64_t position = 0;
  [[nodiscard]] bool reached() const;
};

struct Work {
  /// Runs without the driver's mutex. A code other than success breaks the context.
  std::function<CUresult()> run;
  /// Asked under the mutex until it holds.
  std::function<bool()> ready;
  /// Runs under the mutex when `run` is done, also if the context is broken.
  std::function<void()> after;
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  Stream(Context& context, unsigned flags, int priority);

  /// Adds work behind all that the manual puts before it. The driver's mutex must be held.
  StreamPoint enqueue(Work work);
  /// Everything that is in the stream now.
  [[nodiscard]] StreamPoint end();
  [[nodiscard]] bool idle() const { return completed_ == enqueued_; }
  [[nodiscard]] std::uint64_t completed() const { return completed_; }
  [[nodiscard]] bool blocking() const { return (flags_ & CU_STREAM_NON_BLOCKING) == 0; }
  [[nodiscard]] unsigned flags() const { return flags_; }
  [[nodiscard]] int priority() const { return priority_; }
  [[nodiscard]] Context& context() const { return context_; }
  [[nodiscard]] std::uint64_t id() const { return id_; }
  /// Lets the thread end when all work is done.
  void close();
  [[nodiscard]] bool closed() const { return closed_; }

 private:
  struct Entry {
    Work work;
    std::vector<StreamPoint> behind;
  };

  [[nodiscard]] std::vector<StreamPoint> implicit_predecessors() const;
  [[nodiscard]] bool may_run(const Entry& entry) const;
  void serve();

  Context& context_;
  unsigned flags_;
  int priority_;
  std::uint64_t id_;
  std::deque<Entry> queue_;
  std::uint64_t enqueued_ = 0;
  std::uint64_t completed_ = 0;
  bool has_thread_ = false;
  bool closed_ = false;
};

/// What a stream's thread does now; null on other threads.
struct Running {
  Context* context = nullptr;
  bool host_function = false;             // then CUDA calls are refused
  bool illegal_address = false;           // a kernel touched memory without rights
  std::vector<AddressSpace::Pin> pinned;  // memory that must not be unmapped before the work ends
};
Running* running();

/// What keeps the work from running that this thread's call enqueues: see Injected. 0 for nothing.
std::uint64_t& stalled_by();

}  // namespace fake_gpu
