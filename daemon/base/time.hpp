// Time as the core sees it: each event brings it along, and code that decides never reads a clock.
#pragma once

#include <chrono>

namespace musterd {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Duration = std::chrono::nanoseconds;

}  // namespace musterd
