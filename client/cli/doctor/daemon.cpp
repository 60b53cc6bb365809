// The socket's folder, and the daemon behind it.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/cgroup.hpp>
#include <muster/ipc/place.hpp>

#include "../daemon/inquiry.hpp"
#include "../text.hpp"
#include "check.hpp"

namespace muster::cli {

namespace {

namespace fs = std::filesystem;

/// Returns the folder itself, or the nearest folder above it that exists: the daemon makes the rest when it starts.
fs::path first_existing(fs::path folder) {
  std::error_code ignored;
  while (!fs::exists(folder, ignored) && folder.has_relative_path()) folder = folder.parent_path();
  return folder;
}

Check folder_of(const std::string& path) {
  const fs::path folder = fs::absolute(path).parent_path();
  const fs::path existing = first_existing(folder);
  struct stat info {};
  if (::stat(existing.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))
    return {"socket folder", Health::fail, existing.string() + " is not a folder", "give another --socket"};
  if (existing != folder) {
    if (::access(existing.c_str(), W_OK) == 0)
      return {"socket folder", Health::ok, folder.string() + ", made when a daemon starts", {}};
    return {"socket folder", Health::fail,
            fmt::format("{} can't be made: no right to write to {}", folder.string(), existing.string()),
            "set XDG_RUNTIME_DIR, or give --socket a path of your own"};
  }
  const std::string found = fmt::format("{}, mode {:o}", folder.string(), info.st_mode & 07777U);
  const bool sticky = (info.st_mode & S_ISVTX) != 0;
  if ((info.st_mode & S_IWOTH) != 0 && !sticky)
    return {"socket folder", Health::warn, found + ": anybody may put another socket there",
            "chmod o-w " + folder.string()};
  if (::access(folder.c_str(), X_OK) == 0) return {"socket folder", Health::ok, found, {}};
  return {"socket folder", Health::fail, found + ": no right to enter it", "give --socket a path of your own"};
}

Check path_length(const std::string& path) {
  const auto address = ipc::unix_address(path);
  if (address) return {"socket path", Health::ok, path, {}};
  return {"socket path", Health::fail, address.error().message(), address.error().hint()};
}

/// The README's rule for a budget: the arrays and results of a job, a quarter more, and 1 MiB for each rank.
std::uint64_t fits_each(std::uint64_t budget, std::uint64_t ranks) {
  constexpr std::uint64_t mebibyte = 1 << 20;
  const std::uint64_t left = budget - std::min(budget, ranks * mebibyte);
  return left / 5 * 4 / (ranks + 1);
}

Check jobs_that_fit(std::uint64_t budget) {
  std::string fits;
  for (const std::uint64_t ranks : {4UL, 16UL, 64UL})
    if (fits_each(budget, ranks) > 0)
      fits += fmt::format("{}{} ranks with {} each", fits.empty() ? "" : ", ", ranks,
                          ipc::bytes_text(fits_each(budget, ranks)));
  if (fits_each(budget, 4) == 0)
    return {"an allreduce fits", Health::warn, "none of 4 ranks", "start the daemon with a larger --memory"};
  if (const auto usable = ipc::usable_memory_bytes(); budget > usable)
    return {"an allreduce fits", Health::warn,
            fmt::format("the store may take {}, and this machine or cgroup has {}", ipc::bytes_text(budget, usable),
                        ipc::bytes_text(usable, budget)),
            "muster stop; muster start --memory with less"};
  return {"an allreduce fits", Health::ok, fits, {}};
}

Check version_of(const Inquiry& inquiry) {
  if (inquiry.version() == MUSTER_VERSION) return {"version", Health::ok, MUSTER_VERSION ", the daemon too", {}};
  return {"version", Health::warn, fmt::format("the daemon is {}, this command {}", inquiry.version(), MUSTER_VERSION),
          "muster stop; muster start"};
}

}  // namespace

std::vector<Check> check_socket(const std::string& socket) {
  const std::string path = ipc::socket_path(socket);
  return {path_length(path), folder_of(path)};
}

std::vector<Check> check_daemon(const std::string& socket) {
  auto inquiry = Inquiry::open(socket);
  if (!inquiry) {
    const auto& error = inquiry.error();
    const bool absent = error.code() == Code::daemon_unavailable;
    return {{"daemon", absent ? Health::warn : Health::fail, error.message(), error.hint()},
            {"version", Health::ok, MUSTER_VERSION, {}}};
  }
  const auto status = inquiry->status();
  if (!status) return {{"daemon", Health::fail, status.error().message(), status.error().hint()}};
  const auto& reply = *status->frame().body_as_StatusReply();
  const Check running{"daemon",
                      Health::ok,
                      fmt::format("pid {}, {} of {} used, {}", reply.pid(), ipc::bytes_text(reply.memory_used_bytes()),
                                  ipc::bytes_text(reply.memory_bytes()), plural(reply.clients() - 1, "client")),
                      {}};
  return {running, jobs_that_fit(reply.memory_bytes()), version_of(*inquiry)};
}

}  // namespace muster::cli
