// NCCL: a table of the calls that we make, filled from libnccl.so.2 at run time, and the places where that is.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gpu/cuda.hpp"
#include "gpu/nccl_calls.hpp"

namespace musterd::gpu {

/// NCCL 2.19, the first with ncclMemAlloc and ncclCommRegister: older ones have no call for memory that cuMemCreate
/// made, as ours is. What else we can't do without is older: non-blocking communicators and ncclCommFinalize came
/// with 2.14, ncclCommSplit came with 2.18.
inline constexpr int nccl_version_min = 21900;

namespace nccl {

/// Calls that are newer than nccl_version_min may be null; all others are set in a table that open_nccl() returned.
struct Nccl {
#define MUSTER_MEMBER(member, name, since, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  MUSTER_NCCL_CALLS(MUSTER_MEMBER)
#undef MUSTER_MEMBER
  int version = 0;   ///< 22907 is NCCL 2.29.7
  std::string path;  ///< of the library
};

}  // namespace nccl

struct OpenedNccl {
  Search search;
  std::unique_ptr<nccl::Nccl> nccl;  ///< null if none was found
};

/// What the user and the starter of the daemon say about NCCL's place; each may be empty.
struct NcclPlaces {
  std::string named;  ///< --nccl-so, MUSTER_NCCL_SO: then no other place counts
  std::string wheel;  ///< the library in the Python environment of the program that started the daemon
};

/// In order: the library that the user names; that of the starter's `nvidia-nccl` wheel; that of the wheel in the
/// environment which is activated, and in the one that this musterd is installed in; the system's.
[[nodiscard]] std::vector<Candidate> nccl_candidates(const NcclPlaces& places);
[[nodiscard]] OpenedNccl open_nccl(std::span<const Candidate> candidates);

/// Why there is no NCCL, and what to do; nothing if one was found.
[[nodiscard]] std::optional<muster::Error> nccl_error(const Search& search);

/// "2.29.7" for 22907
[[nodiscard]] std::string nccl_version_text(int version);

}  // namespace musterd::gpu
