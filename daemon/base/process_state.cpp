#include "base/process_state.hpp"

#include <sys/ioctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/text_file.hpp>

namespace musterd {

namespace {

/// The fields of /proc/PID/task/PID/stat (proc(5)) from the third on. The process's name, which comes before them, may
/// hold any character.
struct Stat {
  static constexpr std::size_t first = 3;
  std::string text;
  std::vector<std::string_view> fields;

  [[nodiscard]] std::string_view field(std::size_t number) const {
    return number - first < fields.size() ? fields[number - first] : std::string_view();
  }
  [[nodiscard]] long number(std::size_t field_number) const {
    const auto digits = field(field_number);
    long value = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return value;
  }
  [[nodiscard]] char state() const { return field(first).empty() ? '?' : field(first).front(); }
};

std::optional<Stat> stat_of(pid_t pid) {
  if (pid <= 0) return std::nullopt;
  // This reads the file of the first thread. The file of the process adds up all its threads, which may be tens of
  // thousands.
  auto text = muster::ipc::read_text_file(fmt::format("/proc/{0}/task/{0}/stat", pid));
  if (!text) return std::nullopt;
  Stat stat;
  stat.text = std::move(*text);
  const std::size_t name_end = stat.text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(stat.text).substr(name_end + 1);
  while (!rest.empty()) {
    const std::size_t begin = rest.find_first_not_of(" \n");
    if (begin == std::string_view::npos) break;
    rest.remove_prefix(begin);
    const std::size_t end = std::min(rest.find_first_of(" \n"), rest.size());
    stat.fields.push_back(rest.substr(0, end));
    rest.remove_prefix(end);
  }
  return stat;
}

/// struct pidfd_info of linux/pidfd.h, which older headers don't have.
struct PidfdInfo {
  std::uint64_t mask = 0;
  std::uint64_t cgroup = 0;
  std::array<std::uint32_t, 11> ids{};
  std::int32_t exit_code = 0;
};
static_assert(sizeof(PidfdInfo) == 64, "the size is a part of the number of the request");
constexpr unsigned long pidfd_get_info = _IOWR(0xFF, 11, PidfdInfo);
constexpr std::uint64_t has_exit_code = 1U << 3;

/// The code of a process whose parent has waited for it.
std::optional<int> exit_code_of(int pidfd) {
  PidfdInfo info;
  info.mask = has_exit_code;
  if (pidfd < 0 || ::ioctl(pidfd, pidfd_get_info, &info) != 0 || (info.mask & has_exit_code) == 0) return std::nullopt;
  return info.exit_code;
}

std::string end_text(int code) {
  if (WIFSIGNALED(code))
    return fmt::format("was killed by signal {} ({})", WTERMSIG(code), ::strsignal(WTERMSIG(code)));
  if (WIFEXITED(code) && WEXITSTATUS(code) != 0) return fmt::format("exited with status {}", WEXITSTATUS(code));
  return "ended";
}

}  // namespace

std::optional<std::string> how_it_ends(pid_t pid, int pidfd) {
  constexpr std::size_t flags_field = 9;
  constexpr std::size_t exit_code_field = 52;
  constexpr long exiting = 0x4;  // PF_EXITING of the kernel
  const auto stat = stat_of(pid);
  // Asked after /proc: its parent may wait for it at any moment, and then only the pidfd knows it.
  if (const auto code = exit_code_of(pidfd)) return end_text(*code);
  if (!stat || (stat->state() != 'Z' && (stat->number(flags_field) & exiting) == 0)) return std::nullopt;
  // The code is 0, too, if this process may not look into the other one.
  return end_text(static_cast<int>(stat->number(exit_code_field)));
}

bool is_stopped(pid_t pid) {
  const auto stat = stat_of(pid);
  return stat && (stat->state() == 'T' || stat->state() == 't');
}

}  // namespace musterd
