// The arguments of each kernel, as launch.hpp packs them and as the GPU reads them. Plain numbers only, laid out alike
// by every compiler. An address is a device pointer as the CUDA driver gives it (CUdeviceptr).
#pragma once

#include <cstdint>

namespace musterd::gpu::kernels {

using Address = std::uint64_t;

/// How a kernel walks over its elements: `head` elements one by one, then `vectors` of 16 bytes of each input, then
/// what is left of `count` one by one.
struct Walk {
  std::uint64_t count;            ///< elements
  std::uint64_t vectors;          ///< 0 if inputs don't reach an aligned address together
  std::uint32_t head;             ///< elements before the first vector
  std::uint32_t aligned_outputs;  ///< 1 if outputs can be stored as vectors wherever the inputs can be loaded so
};

/// Threads of a block, in every launch.
inline constexpr std::uint32_t block_threads = 256;

/// Inputs that are folded without a loop over them.
inline constexpr std::uint32_t few_max = 8;

/// fold_few_*: one output from at most few_max inputs.
struct FewArguments {
  Walk walk;
  std::uint32_t ranks;
  std::uint32_t divisor;  ///< of a mean
  Address output;
  Address inputs[few_max];
};

/// Addresses that travel with a launch; more of them lie in a table in memory. A launch may carry 4,096 bytes, but the
/// driver copies all of them each time, and more ranks than this on one GPU are rare.
inline constexpr std::uint32_t carried_max = 64;

/// fold_many_* and scan_*: the addresses of all inputs, then of all outputs. The outputs are the last prefixes of the
/// fold; fold_many_* has one, the fold itself.
struct ManyArguments {
  Walk walk;
  std::uint32_t ranks;
  std::uint32_t outputs;
  std::uint32_t divisor;  ///< of a mean; a scan divides each prefix by its own number of ranks
  std::uint32_t reserved;
  Address table;  ///< of addresses in memory, or 0 if they are all in `carried`
  Address carried[carried_max];
};

/// premultiply_*: each element times a factor.
struct PremultiplyArguments {
  Walk walk;
  std::uint64_t factor;  ///< the bits of an integer, a float32 (float16, bfloat16, float32), or a float64
  Address output;
  Address input;
};

struct Piece {
  Address source;
  Address destination;
  std::uint64_t bytes;
};

/// Pieces that travel with a launch; more of them lie in a table in memory.
inline constexpr std::uint32_t carried_pieces_max = 24;

/// copy: any number of pieces, of any sizes and alignments.
struct CopyArguments {
  std::uint64_t pieces;
  Address table;  ///< of Piece in memory, or 0 if they are all in `carried`
  Piece carried[carried_pieces_max];
};

static_assert(sizeof(Walk) == 24 && sizeof(FewArguments) == 104 && sizeof(ManyArguments) == 560);
static_assert(sizeof(PremultiplyArguments) == 48 && sizeof(CopyArguments) == 592);

}  // namespace musterd::gpu::kernels
