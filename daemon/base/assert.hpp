// A broken invariant of our own ends the daemon at once, in release builds, too: to go on would lose or corrupt data.
#pragma once

namespace musterd {

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line, const char* why);

}  // namespace musterd

// `why` says what must hold, for readers of the log.
#define MUSTER_ASSERT(expression, why) \
  ((expression) ? static_cast<void>(0) : ::musterd::assertion_failed(#expression, __FILE__, __LINE__, why))
