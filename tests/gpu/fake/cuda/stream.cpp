#include "stream.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include "driver.hpp"

namespace fake_gpu {
namespace {

thread_local Running* now_running = nullptr;

std::uint64_t next_stream_id() {
  static std::uint64_t last = 0;
  return ++last;
}

}  // namespace

Running* running() { return now_running; }

std::uint64_t& stalled_by() {
  thread_local std::uint64_t stamp = 0;
  return stamp;
}

bool StreamPoint::reached() const { return stream->completed() >= position; }

Stream::Stream(Context& context, unsigned flags, int priority)
    : context_(context), flags_(flags), priority_(priority), id_(next_stream_id()) {}

// "CUDA Driver API, Stream synchronization behavior": work in the legacy stream waits for all blocking streams of the
// context, and all work that is enqueued in these later waits for it.
std::vector<StreamPoint> Stream::implicit_predecessors() const {
  std::vector<StreamPoint> points;
  if (!blocking()) return points;
  const auto legacy = context_.legacy_stream_if_any();
  if (legacy.get() == this) {
    for (const auto& stream : context_.all_streams())
      if (stream.get() != this && stream->blocking() && !stream->idle()) points.push_back(stream->end());
  } else if (legacy && !legacy->idle()) {
    points.push_back(legacy->end());
  }
  return points;
}

StreamPoint Stream::enqueue(Work work) {
  if (const auto stamp = stalled_by(); stamp != 0)
    work.ready = [stamp, ready = std::move(work.ready)] { return !stalls(stamp) && (!ready || ready()); };
  queue_.push_back({std::move(work), implicit_predecessors()});
  ++enqueued_;
  if (!has_thread_) {
    has_thread_ = true;
    std::thread([self = shared_from_this()] { self->serve(); }).detach();
  }
  driver().progress.notify_all();
  return end();
}

StreamPoint Stream::end() { return {shared_from_this(), enqueued_}; }

void Stream::close() {
  closed_ = true;
  if (!has_thread_) context_.forget_stream(*this);
  driver().progress.notify_all();
}

bool Stream::may_run(const Entry& entry) const {
  if (context_.ending() || context_.broken() != CUDA_SUCCESS) return true;
  return std::all_of(entry.behind.begin(), entry.behind.end(), [](const auto& point) { return point.reached(); }) &&
         (!entry.work.ready || entry.work.ready());
}

void Stream::serve() {
  std::unique_lock lock(driver().mutex);
  while (true) {
    if (queue_.empty() && closed_) break;
    if (queue_.empty() || !may_run(queue_.front())) {
      // What another process has to do doesn't notify us.
      if (!queue_.empty() && queue_.front().work.ready) driver().progress.wait_for(lock, std::chrono::milliseconds(1));
      else driver().progress.wait(lock);
      continue;
    }
    Entry entry = std::move(queue_.front());
    queue_.pop_front();
    if (entry.work.run && context_.broken() == CUDA_SUCCESS && !context_.ending()) {
      Running state;
      state.context = &context_;
      now_running = &state;
      lock.unlock();
      CUresult result = entry.work.run();
      lock.lock();
      now_running = nullptr;
      if (state.illegal_address) result = CUDA_ERROR_ILLEGAL_ADDRESS;
      if (result != CUDA_SUCCESS) context_.break_with(result);
    }
    if (entry.work.after) entry.work.after();
    ++completed_;
    driver().progress.notify_all();
  }
  context_.forget_stream(*this);
  driver().progress.notify_all();
}

}  // namespace fake_gpu
