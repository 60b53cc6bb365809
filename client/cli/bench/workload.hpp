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

  /// `bytes` is one rank's input. It is rounded down to whole elements in equal parts, but each part has at least one.
  [[nodiscard]] static Workload of(const BenchOptions& options, std::uint64_t bytes);

  [[nodiscard]] std::uint64_t input_bytes(DType dtype) const {
    return count * static_cast<std::uint64_t>(parts) * size_of(dtype);
  }
  /// What the rank gives. Empty if only the root gives something and the rank is not the root.
  [[nodiscard]] std::vector<Piece> gives(int rank) const;
  /// What the rank gets. Empty if only the root gets something and the rank is not the root.
  [[nodiscard]] std::vector<Piece> gets(int rank) const;
};

[[nodiscard]] bool reduces(BenchOp op);

/// nccl-tests' factors (its doc/PERFORMANCE.md): how many times the op counts the input's bytes, and how much of that
/// one link has to carry.
struct BandwidthFactors {
  double algorithm = 1;
  double bus = 1;
};
[[nodiscard]] BandwidthFactors bandwidth_factors(BenchOp op, int ranks);

}  // namespace muster::cli
