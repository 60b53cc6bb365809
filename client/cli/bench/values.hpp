// The values that ranks contribute, and the results that must come out. All are small whole numbers. So every sum,
// product and mean is exact in every dtype and in any order, and every bit of a result can be checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <muster/types.hpp>

namespace muster::cli {

/// Values repeat after this many elements. It is a prime, so a chunk that lands in a wrong place shows.
inline constexpr std::uint64_t pattern_elements = 65'521;

/// One round of one op; other rounds have other values.
struct Round {
  DType dtype = DType::float32;
  ReduceOp redop = ReduceOp::sum;
  int ranks = 1;
  std::uint32_t number = 0;
};

/// Which values: one rank's part, or the fold of all ranks' parts.
struct Piece {
  int rank = 0;  ///< ignored if folded
  int part = 0;  ///< which part, for a rank that gives several
  bool folded = false;
};

/// The piece's values up to where they begin to repeat, in the round's dtype, or in the reduction's if the piece is
/// folded.
[[nodiscard]] std::vector<std::byte> pattern(const Round& round, const Piece& piece, std::uint64_t count);

/// Fills `target` with the pattern, again and again.
void fill(std::span<std::byte> target, std::span<const std::byte> pattern);

/// How many elements of `found` differ from the pattern.
[[nodiscard]] std::uint64_t count_wrong(std::span<const std::byte> found, std::span<const std::byte> pattern,
                                        std::size_t element_bytes);

}  // namespace muster::cli
