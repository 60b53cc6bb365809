// What each rank gives to one collective and what it must get, piece by piece.
#pragma once

#include <cstdint>
#include <vector>

#include "bench.hpp"
#include "values.hpp"

namespace muster::cli {

struct Workload {
  BenchOp op = BenchOp::allreduce;
  int ranks = 1;
  int root = 0;
  std::uint64_t count = 0;  ///< elements of one piece
  int parts = 1;            ///< pieces of one rank's input

  /// `bytes`: one rank's input; rounded down to whole elements in equal parts, but never to nothing.
  [[nodiscard]] static Workload of(const BenchOptions& options, std::uint64_t bytes);

  [[nodiscard]] std::uint64_t input_bytes(DType dtype) const {
    return count * static_cast<std::uint64_t>(parts) * size_of(dtype);
  }
  /// What the rank gives; none where only the root gives.
  [[nodiscard]] std::vector<Piece> gives(int rank) const;
  /// What the rank gets; none where only the root gets.
  [[nodiscard]] std::vector<Piece> gets(int rank) const;
};

[[nodiscard]] bool reduces(BenchOp op);

/// nccl-tests' figures (its doc/PERFORMANCE.md): how many times the input's bytes count for the op, and how much of
/// that a link has to carry.
struct BandwidthFactors {
  double algorithm = 1;
  double bus = 1;
};
[[nodiscard]] BandwidthFactors bandwidth_factors(BenchOp op, int ranks);

}  // namespace muster::cli
