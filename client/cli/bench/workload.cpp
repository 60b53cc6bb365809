// Follows MPI and nccl-tests: sendrecv is a ring, in which each rank sends to the next and receives from the one
// before.
#include "workload.hpp"

#include <algorithm>

namespace muster::cli {

namespace {

/// One piece of each rank.
std::vector<Piece> from_all(int ranks, int part) {
  std::vector<Piece> pieces;
  pieces.reserve(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) pieces.push_back({rank, part, false});
  return pieces;
}

bool splits_input(BenchOp op) {
  return op == BenchOp::scatter || op == BenchOp::reduce_scatter || op == BenchOp::all_to_all;
}

}  // namespace

Workload Workload::of(const BenchOptions& options, std::uint64_t bytes) {
  Workload workload{options.op, options.ranks, options.root, 0, 1};
  if (options.op == BenchOp::barrier) return workload;
  if (splits_input(options.op)) workload.parts = options.ranks;
  const std::uint64_t elements = bytes / size_of(options.dtype);
  workload.count = std::max<std::uint64_t>(1, elements / static_cast<std::uint64_t>(workload.parts));
  return workload;
}

std::vector<Piece> Workload::gives(int rank) const {
  const bool only_root = op == BenchOp::broadcast || op == BenchOp::scatter;
  if (op == BenchOp::barrier || (only_root && rank != root)) return {};
  std::vector<Piece> pieces;
  pieces.reserve(static_cast<std::size_t>(parts));
  for (int part = 0; part < parts; ++part) pieces.push_back({rank, part, false});
  return pieces;
}

std::vector<Piece> Workload::gets(int rank) const {
  const Piece folded{0, 0, true};
  switch (op) {
    case BenchOp::allreduce: return {folded};
    case BenchOp::reduce: return rank == root ? std::vector{folded} : std::vector<Piece>{};
    case BenchOp::broadcast: return {{root, 0, false}};
    case BenchOp::allgather: return from_all(ranks, 0);
    case BenchOp::gather: return rank == root ? from_all(ranks, 0) : std::vector<Piece>{};
    case BenchOp::scatter: return {{root, rank, false}};
    case BenchOp::reduce_scatter: return {{0, rank, true}};
    case BenchOp::all_to_all: return from_all(ranks, rank);
    case BenchOp::sendrecv: return {{(rank + ranks - 1) % ranks, 0, false}};
    case BenchOp::barrier: return {};
  }
  return {};
}

bool reduces(BenchOp op) { return op == BenchOp::allreduce || op == BenchOp::reduce || op == BenchOp::reduce_scatter; }

BandwidthFactors bandwidth_factors(BenchOp op, int ranks) {
  const double n = ranks;
  switch (op) {
    case BenchOp::allreduce: return {1, 2 * (n - 1) / n};
    case BenchOp::allgather:
    case BenchOp::gather: return {n, (n - 1) / n};  // the input is one rank's share of what is moved
    case BenchOp::scatter:
    case BenchOp::reduce_scatter:
    case BenchOp::all_to_all: return {1, (n - 1) / n};
    case BenchOp::reduce:
    case BenchOp::broadcast:
    case BenchOp::sendrecv: return {1, 1};
    case BenchOp::barrier: return {0, 0};
  }
  return {1, 1};
}

}  // namespace muster::cli
