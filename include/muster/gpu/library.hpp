// Opens a shared library at run time, from the first of several places whose library fits, and keeps a report of the
// search: somebody has to mend it when none fits.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <muster/result.hpp>

namespace muster::gpu {

/// A place where a library may be.
struct Candidate {
  std::string file;    ///< a path, or a bare name that the system's loader looks for
  std::string source;  ///< who names this place: "MUSTER_NCCL_SO"
  bool only = false;   ///< the user names it, so no other place is tried after it
};

/// How a search ended, or what became of one candidate. If no candidate fits, the search ends with the highest of their
/// findings, because the library that came closest is the one to mend.
enum class Finding {
  absent,   ///< there is no such file
  refused,  ///< there is one, but it can't be loaded, or isn't the library that it should be
  too_old,
  found,
};

[[nodiscard]] std::string_view name(Finding finding);

struct Attempt {
  Candidate candidate;
  Finding finding = Finding::absent;
  std::string why;  ///< a clause: "it has no symbol cuMemCreate"; empty if it was found
};

/// What was looked for, where, and what was found.
struct Search {
  Finding finding = Finding::absent;
  std::vector<Attempt> attempts;
  std::string path;  ///< of the library that was found
  int version = 0;   ///< in the library's own numbers

  /// "looked at PATH (MUSTER_NCCL_SO): it has no symbol ncclSend; libnccl.so.2 (the system: /lib): it is not there"
  [[nodiscard]] std::string places() const;
};

/// A library that is loaded. It stays so until the process ends: CUDA and NCCL have threads of their own, and unloading
/// their code under them ends badly.
class Library {
 public:
  explicit Library(void* handle) : handle_(handle) {}
  /// The address of the symbol; null if the library has none.
  [[nodiscard]] void* find(const char* symbol) const;
  /// Where the loader found the file.
  [[nodiscard]] std::string path() const;

 private:
  void* handle_;
};

/// Why a library is not used.
struct Refusal {
  Finding finding = Finding::refused;
  std::string why;
};

/// Looks at a library that could be loaded: returns why it doesn't fit, or nothing and has used it.
using Examine = std::function<std::unique_ptr<Refusal>(const Library& library, Search& search)>;

/// Tries the candidates in their order, until one is found or the user's own has been tried.
[[nodiscard]] Search search_library(std::span<const Candidate> candidates, const Examine& examine);

/// The folders in which the system's loader looks for a bare name, joined by ", ".
[[nodiscard]] std::string loader_folders();

}  // namespace muster::gpu
