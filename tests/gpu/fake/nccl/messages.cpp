// NCCL User Guide, "Environment Variables": NCCL_DEBUG is VERSION, WARN, INFO or TRACE. NCCL prints to
// stdout, or to the file that NCCL_DEBUG_FILE names; the forms %h and %p in its name mean nothing here.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "failure.hpp"
#include "version.hpp"

namespace fake_nccl {
namespace {

enum class Level { none, version, warn, info };

Level level() {
  const char* said = std::getenv("NCCL_DEBUG");
  if (said == nullptr) return Level::none;
  if (::strcasecmp(said, "VERSION") == 0) return Level::version;
  if (::strcasecmp(said, "WARN") == 0) return Level::warn;
  const bool all = ::strcasecmp(said, "INFO") == 0 || ::strcasecmp(said, "TRACE") == 0;
  return all ? Level::info : Level::none;
}

std::FILE* output() {
  static std::FILE* const file = [] {
    const char* named = std::getenv("NCCL_DEBUG_FILE");
    std::FILE* opened = named != nullptr ? std::fopen(named, "a") : nullptr;
    return opened != nullptr ? opened : stdout;
  }();
  return file;
}

void print(const char* kind, const std::string& text) {
  char host[64] = "host";
  ::gethostname(host, sizeof(host) - 1);
  std::fprintf(output(), "%s:%d:%d NCCL %s %s\n", host, ::getpid(), ::gettid(), kind, text.c_str());
  std::fflush(output());
}

std::mutex text_mutex;
char text_of_last_error[1024];

}  // namespace

void warn(const std::string& text) {
  {
    const std::scoped_lock lock(text_mutex);
    std::snprintf(text_of_last_error, sizeof(text_of_last_error), "%s", text.c_str());
  }
  if (level() >= Level::warn) print("WARN", text);
}

void inform(const std::string& text) {
  if (level() >= Level::info) print("INFO", text);
}

void show_version() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (level() < Level::version) return;
    const int version = library_version();
    std::fprintf(output(), "NCCL version %d.%d.%d+fake\n", version / 10000, version % 10000 / 100, version % 100);
    std::fflush(output());
  });
}

const char* last_error() { return text_of_last_error; }

}  // namespace fake_nccl
