#include "base/assert.hpp"

#include <cstdio>
#include <cstdlib>

namespace musterd {

void assertion_failed(const char* expression, const char* file, int line, const char* why) {
  std::fprintf(stderr, "musterd: broken invariant: %s (%s) at %s:%d\n", why, expression, file, line);
  std::abort();
}

}  // namespace musterd
