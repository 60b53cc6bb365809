#include "injection.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include "errors.hpp"
#include "folder.hpp"

namespace fake_gpu {
namespace {

constexpr std::size_t lines_max = 64;

/// When and how often each line has matched, over all processes.
struct SharedCounts {
  std::atomic<std::uint64_t> stamp;
  std::array<std::atomic<std::uint32_t>, lines_max> matched;
};

struct Line {
  std::string call = "*";  // with or without its version; a `*` at the end stands for anything
  int device = -1;
  int pid = 0;
  CUresult code = CUDA_SUCCESS;
  bool hang = false;
  bool stall = false;
  bool breaks_context = false;
  int nccl_code = 0;
  int nccl_later = 0;
  std::uint32_t nth = 1;      // the first match that counts
  std::uint32_t times = ~0U;  // how many matches count
};

struct Plan {
  std::uint64_t stamp = 0;
  std::vector<Line> lines;
};

std::mutex plan_mutex;

std::uint64_t stamp_of_file() {
  struct stat status {};
  if (::stat((folder() / "inject").c_str(), &status) != 0) return 0;
  return static_cast<std::uint64_t>(status.st_mtim.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(status.st_mtim.tv_nsec) + status.st_ino * 31 +
         static_cast<std::uint64_t>(status.st_size);
}

SharedCounts& shared_counts() {
  static auto* counts = static_cast<SharedCounts*>(map_shared(folder() / "inject.counts", sizeof(SharedCounts)));
  return *counts;
}

CUresult code_of(const std::string& text) {
  if (const auto code = code_by_name(text)) return *code;
  return static_cast<CUresult>(std::stoi(text));
}

/// The codes of NCCL, by name: then it is NCCL's call that fails. Returns 0 for other words.
int nccl_code_of(const std::string& text) {
  constexpr std::array names{"ncclSuccess",       "ncclUnhandledCudaError", "ncclSystemError",
                             "ncclInternalError", "ncclInvalidArgument",    "ncclInvalidUsage",
                             "ncclRemoteError",   "ncclInProgress",         "ncclTimeout"};
  for (std::size_t code = 0; code < names.size(); ++code)
    if (text == names[code]) return static_cast<int>(code);
  return 0;
}

void read_word(Line& line, const std::string& word) {
  const auto equals = word.find('=');
  const auto name = word.substr(0, equals);
  const auto value = equals == std::string::npos ? "" : word.substr(equals + 1);
  if (name == "call") {
    line.call = value;
  } else if (name == "device") {
    line.device = std::stoi(value);
  } else if (name == "pid") {
    line.pid = std::stoi(value);
  } else if (name == "nth") {
    line.nth = static_cast<std::uint32_t>(std::stoul(value));
  } else if (name == "times") {
    line.times = static_cast<std::uint32_t>(std::stoul(value));
  } else if (name == "once") {
    line.times = 1;
  } else if (name == "error") {
    line.nccl_code = nccl_code_of(value);
    if (line.nccl_code == 0) line.code = code_of(value);
  } else if (name == "later") {
    line.nccl_later = nccl_code_of(value);
    if (line.nccl_later == 0) throw std::runtime_error("the file inject has a code that NCCL hasn't: " + value);
  } else if (name == "out-of-memory") {
    line.code = CUDA_ERROR_OUT_OF_MEMORY;
  } else if (name == "hang") {
    line.hang = true;
  } else if (name == "stall") {
    line.stall = true;
  } else if (name == "sticky") {
    line.code = code_of(value);
    line.breaks_context = true;
  } else if (name == "lost") {
    line.code = value.empty() ? CUDA_ERROR_DEVICE_UNAVAILABLE : code_of(value);
    line.breaks_context = true;
  } else {
    throw std::runtime_error("the file inject has a word that means nothing: " + word);
  }
}

std::vector<Line> read_lines() {
  std::vector<Line> lines;
  std::ifstream file(folder() / "inject");
  for (std::string text; std::getline(file, text);) {
    std::istringstream words(text.substr(0, text.find('#')));
    Line line;
    bool any = false;
    for (std::string word; words >> word; any = true) read_word(line, word);
    if (any) lines.push_back(line);
  }
  if (lines.size() > lines_max) throw std::runtime_error("the file inject has too many lines");
  return lines;
}

std::shared_ptr<const Plan> current_plan() {
  static auto& plan = *new std::shared_ptr<const Plan>(std::make_shared<Plan>());
  const std::scoped_lock lock(plan_mutex);
  const auto stamp = stamp_of_file();
  if (stamp != plan->stamp) {
    const FolderLock folder_lock;
    plan = std::make_shared<Plan>(Plan{stamp, stamp == 0 ? std::vector<Line>{} : read_lines()});
    if (shared_counts().stamp.exchange(stamp) != stamp)
      for (auto& matched : shared_counts().matched) matched = 0;
  }
  return plan;
}

bool matches_call(const std::string& pattern, const std::string& call) {
  if (!pattern.empty() && pattern.back() == '*') return call.starts_with(pattern.substr(0, pattern.size() - 1));
  return call == pattern || (call.starts_with(pattern + "_v") && call.size() == pattern.size() + 3);
}

bool matches(const Line& line, const std::string& call, int physical, bool only_device) {
  if (only_device && line.device < 0) return false;
  if ((line.nccl_code != 0 || line.nccl_later != 0) && !call.starts_with("nccl")) return false;
  return matches_call(line.call, call) && (line.device < 0 || line.device == physical) &&
         (line.pid == 0 || line.pid == ::getpid());
}

bool is_turn(const Line& line, std::size_t index) {
  const auto match = ++shared_counts().matched[index];
  return match >= line.nth && match - line.nth < line.times;
}

void hang_until_changed(std::uint64_t stamp) {
  while (stamp_of_file() == stamp) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

}  // namespace

Injected injected(const std::string& call, int physical, bool only_device) {
  const auto plan = current_plan();
  Injected result;
  for (std::size_t index = 0; index < plan->lines.size(); ++index) {
    const auto& line = plan->lines[index];
    if (!matches(line, call, physical, only_device) || !is_turn(line, index)) continue;
    if (line.hang) hang_until_changed(plan->stamp);
    if (line.stall) result.stalled_by = plan->stamp;
    result.code = line.code;
    result.nccl_code = line.nccl_code;
    if (line.nccl_later != 0) result.nccl_later = line.nccl_later;
    result.breaks_context = line.breaks_context;
    if (line.code != CUDA_SUCCESS || line.nccl_code != 0) break;
  }
  return result;
}

bool stalls(std::uint64_t stamp) { return stamp_of_file() == stamp; }

void complain(const char* where, const char* what) { std::fprintf(stderr, "fake libcuda: %s: %s\n", where, what); }

}  // namespace fake_gpu
