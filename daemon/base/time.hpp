// Time as the core sees it: handed in with each event, never read where something is decided.
#pragma once

#include <chrono>

namespace musterd {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Duration = std::chrono::nanoseconds;

}  // namespace musterd
