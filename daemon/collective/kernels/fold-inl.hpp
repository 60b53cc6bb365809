// The loop that every kernel shares, compiled once per instruction set. It reads each input once, keeps accumulators in
// registers, and writes the output once; a scan writes after each rank's input. elements-inl.hpp has what a kernel
// loads, folds and stores.
#if defined(MUSTERD_KERNELS_FOLD_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef MUSTERD_KERNELS_FOLD_INL_HPP
#undef MUSTERD_KERNELS_FOLD_INL_HPP
#else
#define MUSTERD_KERNELS_FOLD_INL_HPP
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "daemon/collective/kernels/families.hpp"

#if MUSTERD_KERNELS_SIMD
HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// More inputs than this are folded group by group. If there were more streams of addresses than prefetchers follow, or
// than a set of the cache has ways, they would push each other out. Between groups, a block of accumulators stays in
// the first-level cache.
inline constexpr std::size_t group_ranks = 16;
inline constexpr std::size_t carry_bytes = 8192;

/// `In` loads a vector of elements, `Op` folds two such vectors, `Out` turns the last one into the output's.
template <class In, class Op, class Out>
struct Kernel {
  using D = typename In::D;
  using V = hn::Vec<D>;
  static constexpr std::size_t lanes = In::lanes;  // elements per vector
  static constexpr std::size_t in_bytes = In::element_bytes;
  static constexpr std::size_t out_bytes = Out::element_bytes;
  static constexpr std::size_t out_vector_bytes = lanes * out_bytes;
  static constexpr bool can_stream = out_vector_bytes >= HWY_STREAM_MULTIPLE;
  // Vectors per turn of the loop. Kernels with conversions take two, as their code is long and keeps a core busy
  // anyway.
  static constexpr std::size_t unroll = lanes * in_bytes == sizeof(V) && out_vector_bytes == sizeof(V) ? 4 : 2;

  static HWY_INLINE V load(const std::byte* from) { return In::load(from); }
  static HWY_INLINE V fold(V a, V b) { return Op::fold(D(), a, b); }
  static HWY_INLINE void store(V folded, std::size_t ranks, std::byte* to, [[maybe_unused]] bool stream) {
    const typename Out::D d;
    const auto finished = Out::finish(D(), folded, ranks);
    auto* const typed = reinterpret_cast<hn::TFromD<typename Out::D>*>(to);
    if constexpr (can_stream) {
      if (stream) return hn::Stream(finished, d, typed);
    }
    hn::StoreU(finished, d, typed);
  }
};

/// A run of ranks over a run of elements: the whole call, or one group over one block.
struct Part {
  const std::byte* const* inputs;
  std::size_t ranks;
  std::size_t total_ranks;  // of the call
  std::byte* output;
  std::byte* carry = nullptr;  // the block's accumulators, if a group came before or comes after
  bool begins = true;          // no group came before
  bool ends = true;            // no group comes after
  bool stream = false;
};

/// Folds one vector per `U`, the first of which starts at element `first`; `carried` vectors of the block came before.
template <class K, std::size_t... U>
HWY_INLINE void fold_step(const Part& part, std::size_t first, std::size_t carried, std::index_sequence<U...>) {
  const typename K::D d;
  constexpr std::size_t carry_lanes = hn::MaxLanes(typename K::D());
  // Called only if there is a carry: not even an offset may be added to a null pointer.
  const auto carry = [&](std::size_t vector) {
    return reinterpret_cast<hn::TFromD<typename K::D>*>(part.carry) + (carried + vector) * carry_lanes;
  };
  typename K::V folded[sizeof...(U)];
  std::size_t rank = 0;
  if (part.begins) {
    const std::byte* const input = part.inputs[rank++] + first * K::in_bytes;
    ((folded[U] = K::load(input + U * K::lanes * K::in_bytes)), ...);
  } else {
    ((folded[U] = hn::Load(d, carry(U))), ...);
  }
  for (; rank < part.ranks; ++rank) {
    const std::byte* const input = part.inputs[rank] + first * K::in_bytes;
    ((folded[U] = K::fold(folded[U], K::load(input + U * K::lanes * K::in_bytes))), ...);
  }
  if (part.ends) {
    std::byte* const output = part.output + first * K::out_bytes;
    (K::store(folded[U], part.total_ranks, output + U * K::out_vector_bytes, part.stream), ...);
  } else {
    (hn::Store(folded[U], d, carry(U)), ...);
  }
}

// Not inlined, so that a kernel is compiled once for all of its callers.
template <class K>
HWY_NOINLINE void fold_part(const Part& part, std::size_t first, std::size_t vectors) {
  std::size_t done = 0;
  for (; done + K::unroll <= vectors; done += K::unroll)
    fold_step<K>(part, first + done * K::lanes, done, std::make_index_sequence<K::unroll>());
  for (; done < vectors; ++done) fold_step<K>(part, first + done * K::lanes, done, std::make_index_sequence<1>());
}

/// Folds many ranks: one block of elements through all groups, then the next block.
template <class K>
HWY_NOINLINE void fold_groups(const Part& whole, std::size_t first, std::size_t vectors) {
  constexpr std::size_t block = carry_bytes / sizeof(typename K::V);
  alignas(64) std::byte carry[carry_bytes];
  for (std::size_t done = 0; done < vectors; done += block) {
    for (std::size_t rank = 0; rank < whole.total_ranks; rank += group_ranks) {
      Part part = whole;
      part.inputs = whole.inputs + rank;
      part.ranks = std::min(group_ranks, whole.total_ranks - rank);
      part.carry = carry;
      part.begins = rank == 0;
      part.ends = rank + part.ranks == whole.total_ranks;
      fold_part<K>(part, first + done * K::lanes, std::min(block, vectors - done));
    }
  }
}

/// Folds fewer elements than a vector has. It uses a padded copy, so that nothing beyond an input is read.
template <class K>
HWY_NOINLINE void fold_short(const Part& part, std::size_t count) {
  alignas(64) std::byte padded[K::lanes * std::max(K::in_bytes, K::out_bytes)] = {};
  std::memcpy(padded, part.inputs[0], count * K::in_bytes);
  typename K::V folded = K::load(padded);
  for (std::size_t rank = 1; rank < part.ranks; ++rank) {
    std::memcpy(padded, part.inputs[rank], count * K::in_bytes);
    folded = K::fold(folded, K::load(padded));
  }
  K::store(folded, part.total_ranks, padded, false);
  std::memcpy(part.output, padded, count * K::out_bytes);
}

// ---- scans: the same fold, stored after each rank

// Each rank of a scan has two streams of addresses.
inline constexpr std::size_t scan_group_ranks = group_ranks / 2;

/// A run of ranks of a scan over a block of elements.
struct ScanPart {
  const Reduce& call;
  std::size_t first_rank;
  std::size_t last_rank;  // beyond
  std::byte* carry;       // the block's accumulators, between groups
};

template <class K, std::size_t... U>
HWY_INLINE void scan_step(const ScanPart& part, std::size_t first, std::size_t carried, std::index_sequence<U...>) {
  const typename K::D d;
  constexpr std::size_t carry_lanes = hn::MaxLanes(typename K::D());
  auto* const carry = reinterpret_cast<hn::TFromD<typename K::D>*>(part.carry) + carried * carry_lanes;
  typename K::V folded[sizeof...(U)];
  if (part.first_rank != 0) ((folded[U] = hn::Load(d, carry + U * carry_lanes)), ...);
  for (std::size_t rank = part.first_rank; rank < part.last_rank; ++rank) {
    const std::byte* const input = part.call.inputs[rank] + first * K::in_bytes;
    if (rank == 0) {
      ((folded[U] = K::load(input + U * K::lanes * K::in_bytes)), ...);
    } else {
      ((folded[U] = K::fold(folded[U], K::load(input + U * K::lanes * K::in_bytes))), ...);
    }
    if (part.call.prefixes[rank] == nullptr) continue;
    std::byte* const prefix = part.call.prefixes[rank] + first * K::out_bytes;
    (K::store(folded[U], rank + 1, prefix + U * K::out_vector_bytes, false), ...);
  }
  if (part.last_rank != part.call.inputs.size()) (hn::Store(folded[U], d, carry + U * carry_lanes), ...);
}

/// Takes one block of elements through all groups of ranks, then the next block.
template <class K>
HWY_NOINLINE void scan_blocks(const Reduce& call, std::size_t first, std::size_t vectors) {
  constexpr std::size_t block = carry_bytes / sizeof(typename K::V);
  alignas(64) std::byte carry[carry_bytes];
  for (std::size_t begin = 0; begin < vectors; begin += block) {
    const std::size_t size = std::min(block, vectors - begin);
    for (std::size_t rank = 0; rank < call.inputs.size(); rank += scan_group_ranks) {
      const ScanPart part{call, rank, std::min(rank + scan_group_ranks, call.inputs.size()), carry};
      std::size_t done = 0;
      for (; done + K::unroll <= size; done += K::unroll)
        scan_step<K>(part, first + (begin + done) * K::lanes, done, std::make_index_sequence<K::unroll>());
      for (; done < size; ++done)
        scan_step<K>(part, first + (begin + done) * K::lanes, done, std::make_index_sequence<1>());
    }
  }
}

template <class K>
HWY_NOINLINE void scan_short(const Reduce& call) {
  alignas(64) std::byte padded[K::lanes * std::max(K::in_bytes, K::out_bytes)] = {};
  typename K::V folded;
  for (std::size_t rank = 0; rank < call.inputs.size(); ++rank) {
    std::memcpy(padded, call.inputs[rank], call.count * K::in_bytes);
    const auto loaded = K::load(padded);
    folded = rank == 0 ? loaded : K::fold(folded, loaded);
    if (call.prefixes[rank] == nullptr) continue;
    K::store(folded, rank + 1, padded, false);
    std::memcpy(call.prefixes[rank], padded, call.count * K::out_bytes);
  }
}

template <class K>
void scan(const Reduce& call) {
  if (call.count < K::lanes) return scan_short<K>(call);
  const std::size_t vectors = call.count / K::lanes;
  scan_blocks<K>(call, 0, vectors);
  if (vectors * K::lanes != call.count) scan_blocks<K>(call, call.count - K::lanes, 1);
}

// ---- both

/// Runs the kernel over a call. If the last elements don't fill a vector, they are folded in one that begins earlier.
/// That folds some elements twice: a lane's bits depend on no other lane, and a second store of the same bits is
/// cheaper than a scalar loop.
template <class K>
void fold(const Reduce& call) {
  if (!call.prefixes.empty()) return scan<K>(call);
  const std::size_t ranks = call.inputs.size();
  Part part{.inputs = call.inputs.data(), .ranks = ranks, .total_ranks = ranks, .output = call.output};
  if (call.count < K::lanes) return fold_short<K>(part, call.count);

  std::size_t first = 0;
  bool stream = false;
  if constexpr (K::can_stream) {
    const std::size_t beyond = reinterpret_cast<std::uintptr_t>(call.output) % K::out_vector_bytes;
    stream = call.count * K::out_bytes >= call.stream_bytes_min && beyond % K::out_bytes == 0;
    if (stream && beyond != 0) {  // streaming stores need aligned addresses
      fold_part<K>(part, 0, 1);
      first = (K::out_vector_bytes - beyond) / K::out_bytes;
    }
  }
  part.stream = stream;
  const std::size_t vectors = (call.count - first) / K::lanes;
  if (ranks <= group_ranks) {
    fold_part<K>(part, first, vectors);
  } else {
    fold_groups<K>(part, first, vectors);
  }
  part.stream = false;
  if (first + vectors * K::lanes != call.count) fold_part<K>(part, call.count - K::lanes, 1);
  if (stream) hwy::FlushStream();
}

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // include guard, toggled per target
