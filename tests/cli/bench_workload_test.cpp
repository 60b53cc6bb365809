// What ranks give and get in each collective, and nccl-tests' bandwidths.
#include <catch2/catch.hpp>

#include "bench/workload.hpp"

using namespace muster::cli;
using muster::DType;

namespace {

Workload workload(BenchOp op, std::uint64_t bytes = 1024) {
  BenchOptions options;
  options.op = op;
  options.ranks = 4;
  options.root = 1;
  return Workload::of(options, bytes);
}

}  // namespace

TEST_CASE("sizes are one rank's input, in whole elements") {
  CHECK(workload(BenchOp::allreduce).count == 256);
  CHECK(workload(BenchOp::allgather).input_bytes(DType::float32) == 1024);
  CHECK(workload(BenchOp::all_to_all).count == 64);
  CHECK(workload(BenchOp::all_to_all).input_bytes(DType::float32) == 1024);
  CHECK(workload(BenchOp::all_to_all, 1).input_bytes(DType::float32) == 16);
  CHECK(workload(BenchOp::barrier).input_bytes(DType::float32) == 0);
}

TEST_CASE("who gives and who gets") {
  for (int rank = 0; rank < 4; ++rank) {
    const std::size_t on_root = rank == 1 ? 1 : 0;
    CHECK(workload(BenchOp::allreduce).gives(rank).size() == 1);
    CHECK(workload(BenchOp::allreduce).gets(rank).at(0).folded);
    CHECK(workload(BenchOp::reduce).gets(rank).size() == on_root);
    CHECK(workload(BenchOp::broadcast).gives(rank).size() == on_root);
    CHECK(workload(BenchOp::broadcast).gets(rank).at(0).rank == 1);
    CHECK(workload(BenchOp::gather).gets(rank).size() == 4 * on_root);
    CHECK(workload(BenchOp::scatter).gives(rank).size() == 4 * on_root);
    CHECK(workload(BenchOp::scatter).gets(rank).at(0).part == rank);
    CHECK(workload(BenchOp::all_to_all).gets(rank).at(2).rank == 2);
    CHECK(workload(BenchOp::all_to_all).gets(rank).at(2).part == rank);
    CHECK(workload(BenchOp::sendrecv).gets(rank).at(0).rank == (rank + 3) % 4);
    CHECK(workload(BenchOp::barrier).gives(rank).empty());
  }
}

TEST_CASE("bandwidth factors are nccl-tests'") {
  CHECK(bandwidth_factors(BenchOp::allreduce, 4).bus == 1.5);
  CHECK(bandwidth_factors(BenchOp::allgather, 4).algorithm == 4);
  CHECK(bandwidth_factors(BenchOp::allgather, 4).bus == 0.75);
  CHECK(bandwidth_factors(BenchOp::reduce_scatter, 4).bus == 0.75);
  CHECK(bandwidth_factors(BenchOp::broadcast, 4).bus == 1);
}
