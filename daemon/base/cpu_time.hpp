// How long the calling thread has had a core: what others took of it does not count.
#pragma once

#include <chrono>
#include <ctime>

#include "base/time.hpp"

namespace musterd {

/// Takes a system call.
[[nodiscard]] inline Duration thread_cpu_time() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + Duration(time.tv_nsec);
}

}  // namespace musterd
