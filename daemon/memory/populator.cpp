#include "memory/populator.hpp"

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <new>

namespace musterd {

namespace {

/// Populating a chunk takes well below a millisecond. Other threads that map or unmap something may have to wait for
/// that long.
constexpr std::size_t chunk_bytes = 512 << 10;
constexpr std::size_t queue_max = 256;

}  // namespace

Populator::Populator() {
  // Only the control thread takes signals.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { work(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Populator::~Populator() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Populator::populate(const SegmentMemoryPtr& memory) {
  try {
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= queue_max) return;
    queue_.emplace_back(memory);
  } catch (const std::bad_alloc&) {
    return;  // the pages come with their first use
  }
  changed_.notify_all();
}

void Populator::wait_until_idle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty() && !busy_; });
}

void Populator::work() {
  pthread_setname_np(pthread_self(), "muster-populate");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const auto watched = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    bool more = true;
    for (std::size_t offset = 0; more && !stopping_; offset += chunk_bytes) {
      lock.unlock();
      // The memory is held for one chunk only, so that a segment that is given back goes at once.
      if (const auto memory = watched.lock()) {
        const std::size_t bytes = memory->host().size();
        more = memory->populate(offset, std::min(chunk_bytes, bytes - offset)) && offset + chunk_bytes < bytes;
      } else {
        more = false;
      }
      lock.lock();
    }
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace musterd
