// Time as the core sees it: handed in with each event, never read by whoever decides.
#pragma once

#include <chrono>

namespace musterd {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Duration = std::chrono::nanoseconds;

}  // namespace musterd
