// How long the calling thread has had a core. The time in which other threads had the core does not count.
#pragma once

#include <sys/resource.h>

#include <chrono>
#include <cstdint>
#include <ctime>

#include "base/time.hpp"

namespace musterd {

/// Takes a system call.
[[nodiscard]] inline Duration thread_cpu_time() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + Duration(time.tv_nsec);
}

struct ThreadUsage {
  Duration on_core{};
  std::uint64_t waits = 0;  ///< how often it gave up its core by itself
};

/// The usage of the calling thread. Costs a system call.
[[nodiscard]] inline ThreadUsage thread_usage() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto duration = [](const timeval& time) {
    return std::chrono::seconds(time.tv_sec) + std::chrono::microseconds(time.tv_usec);
  };
  return {.on_core = duration(usage.ru_utime) + duration(usage.ru_stime),
          .waits = static_cast<std::uint64_t>(usage.ru_nvcsw)};
}

}  // namespace musterd
