#include "gpu/nccl.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

namespace musterd::gpu {

using muster::Code;
using muster::Error;

namespace {

namespace fs = std::filesystem;
using nccl::Nccl;
using nccl::Status;

constexpr const char* library_name = "libnccl.so.2";

std::unique_ptr<Refusal> refuse(Finding finding, std::string why) {
  return std::make_unique<Refusal>(Refusal{finding, std::move(why)});
}

/// A call that the library should have by its version and lacks is a refusal: half a library is no base for groups.
std::unique_ptr<Refusal> fill(Nccl& table, const Library& library) {
  table.get_version = reinterpret_cast<decltype(table.get_version)>(library.find("ncclGetVersion"));
  if (!table.get_version) return refuse(Finding::refused, "it has no symbol ncclGetVersion, so it is no NCCL");
  if (table.get_version(&table.version) != Status::success)
    return refuse(Finding::refused, "it doesn't tell its version");
  if (table.version < nccl_version_min)
    return refuse(Finding::too_old, fmt::format("it is NCCL {}, and {} is needed at least",
                                                nccl_version_text(table.version), nccl_version_text(nccl_version_min)));
#define MUSTER_FIND(member, name, since, ...)                                   \
  table.member = reinterpret_cast<decltype(table.member)>(library.find(#name)); \
  if (!table.member && (since) <= nccl_version_min) return refuse(Finding::refused, "it has no symbol " #name);
  MUSTER_NCCL_CALLS(MUSTER_FIND)
#undef MUSTER_FIND
  return nullptr;
}

/// The wheel's library in an environment of Python. Which Python that has, its lib folder tells.
std::vector<std::string> wheels_below(const fs::path& environment) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator entry(environment / "lib", error), end; !error && entry != end; entry.increment(error)) {
    if (!entry->path().filename().string().starts_with("python3")) continue;
    const auto file = entry->path() / "site-packages" / "nvidia" / "nccl" / "lib" / library_name;
    std::error_code ignored;
    if (fs::exists(file, ignored)) found.push_back(file.string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// An environment that has no wheel is listed all the same, with the file that it would have: the report of the search
/// is to name every place.
void add_wheels(std::vector<Candidate>& candidates, const fs::path& environment, const std::string& source) {
  auto found = wheels_below(environment);
  if (found.empty())
    found.push_back((environment / "lib/python3*/site-packages/nvidia/nccl/lib" / library_name).string());
  for (auto& file : found) {
    const bool known = std::any_of(candidates.begin(), candidates.end(),
                                   [&](const Candidate& candidate) { return candidate.file == file; });
    if (!known) candidates.push_back({std::move(file), source});
  }
}

}  // namespace

std::string nccl_version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

std::vector<Candidate> nccl_candidates(const NcclPlaces& places) {
  if (!places.named.empty()) return {{places.named, "named by MUSTER_NCCL_SO or --nccl-so", true}};
  std::vector<Candidate> candidates;
  if (!places.wheel.empty()) candidates.push_back({places.wheel, "the wheel of the Python that starts the daemon"});
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const char* const environment = std::getenv(variable);
    if (environment && *environment) add_wheels(candidates, environment, fmt::format("the wheel in {}", variable));
  }
  std::error_code error;
  const auto self = fs::read_symlink("/proc/self/exe", error);
  if (!error) add_wheels(candidates, self.parent_path().parent_path(), "the wheel beside musterd");
  candidates.push_back({library_name, "the system's loader: " + loader_folders()});
  return candidates;
}

OpenedNccl open_nccl(std::span<const Candidate> candidates) {
  OpenedNccl opened;
  auto table = std::make_unique<Nccl>();
  opened.search = search_library(candidates, [&](const Library& library, Search& search) {
    *table = {};
    auto refusal = fill(*table, library);
    if (!refusal) search.version = table->version;
    return refusal;
  });
  if (opened.search.finding != Finding::found) return opened;
  table->path = opened.search.path;
  opened.nccl = std::move(table);
  return opened;
}

std::optional<Error> nccl_error(const Search& search) {
  constexpr const char* install = "pip install nvidia-nccl-cu13, or set MUSTER_NCCL_SO to the library's path";
  switch (search.finding) {
    case Finding::found: break;
    case Finding::absent: return Error(Code::invalid, "NCCL (libnccl.so.2) was not found: " + search.places(), install);
    case Finding::refused:
      return Error(Code::invalid, "NCCL (libnccl.so.2) can't be used: " + search.places(), install);
    case Finding::too_old:
      return Error(Code::invalid, "NCCL (libnccl.so.2) is too old: " + search.places(),
                   "pip install -U nvidia-nccl-cu13");
  }
  return std::nullopt;
}

}  // namespace musterd::gpu
