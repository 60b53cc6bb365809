#include <muster/gpu/library.hpp>

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstddef>

#include <fmt/format.h>

namespace muster::gpu {

namespace {

/// The loader says why it failed only in words. If there is no such file, they begin with the name that was asked for;
/// if a library that the file needs is missing, they begin with the name of that one.
Refusal refusal_of_loader(const std::string& file) {
  const char* const said = ::dlerror();
  const std::string why = said ? said : "the loader doesn't say why";
  const bool absent = why.starts_with(file + ": cannot open shared object file: No such file");
  if (absent) return {Finding::absent, "it is not there"};
  return {Finding::refused, "the loader refuses it: " + why};
}

Attempt try_candidate(const Candidate& candidate, const Examine& examine, Search& search) {
  Attempt attempt{candidate, Finding::found, {}};
  // RTLD_NOW: a symbol that is missing shows here, and not in the middle of an op. RTLD_LOCAL: nothing else in this
  // process is bound to the library's symbols.
  void* const handle = ::dlopen(candidate.file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    auto refusal = refusal_of_loader(candidate.file);
    attempt.finding = refusal.finding;
    attempt.why = std::move(refusal.why);
    return attempt;
  }
  const Library library(handle);
  if (const auto refusal = examine(library, search)) {
    attempt.finding = refusal->finding;
    attempt.why = candidate.file == library.path() ? refusal->why : fmt::format("{}: {}", library.path(), refusal->why);
    ::dlclose(handle);
    return attempt;
  }
  search.path = library.path();
  return attempt;
}

}  // namespace

std::string_view name(Finding finding) {
  switch (finding) {
    case Finding::absent: return "absent";
    case Finding::refused: return "refused";
    case Finding::too_old: return "too old";
    case Finding::found: return "found";
  }
  return "";
}

std::string Search::places() const {
  std::string text;
  for (const auto& attempt : attempts)
    text += fmt::format("{}{} ({}){}{}", text.empty() ? "" : "; ", attempt.candidate.file, attempt.candidate.source,
                        attempt.why.empty() ? "" : ": ", attempt.why);
  return text;
}

void* Library::find(const char* symbol) const { return ::dlsym(handle_, symbol); }

std::string Library::path() const {
  link_map* map = nullptr;
  if (::dlinfo(handle_, RTLD_DI_LINKMAP, static_cast<void*>(&map)) != 0 || !map || !map->l_name) return {};
  return map->l_name;
}

Search search_library(std::span<const Candidate> candidates, const Examine& examine) {
  Search search;
  for (const auto& candidate : candidates) {
    search.attempts.push_back(try_candidate(candidate, examine, search));
    search.finding = std::max(search.finding, search.attempts.back().finding);
    if (search.finding == Finding::found || candidate.only) break;
  }
  return search;
}

std::string loader_folders() {
  // This program's own handle; closing it does nothing.
  void* const self = ::dlopen(nullptr, RTLD_NOW);
  Dl_serinfo size{};
  if (!self || ::dlinfo(self, RTLD_DI_SERINFOSIZE, &size) != 0) return "its folders";
  // The loader writes as many entries as it said, and the texts behind them.
  std::vector<std::max_align_t> memory(size.dls_size / sizeof(std::max_align_t) + 1);
  auto* const info = reinterpret_cast<Dl_serinfo*>(memory.data());
  *info = size;
  if (::dlinfo(self, RTLD_DI_SERINFO, info) != 0) return "its folders";
  std::vector<std::string> folders;
  for (unsigned i = 0; i < info->dls_cnt; ++i) {
    const std::string folder = (&info->dls_serpath[0])[i].dls_name;
    if (std::find(folders.begin(), folders.end(), folder) == folders.end()) folders.push_back(folder);
  }
  return fmt::format("{}", fmt::join(folders, ", "));
}

}  // namespace muster::gpu
