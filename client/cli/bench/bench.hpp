// `muster bench`: measures one collective over real rank processes, in the manner of nccl-tests, and checks every
// element of every result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <muster/types.hpp>

#include "../exit_status.hpp"

namespace muster::cli {

enum class BenchOp {
  allreduce,
  reduce,
  broadcast,
  allgather,
  gather,
  scatter,
  reduce_scatter,
  all_to_all,
  sendrecv,
  barrier,
};

[[nodiscard]] std::string_view name(BenchOp op);

/// What counts as "readable": the clock of a round stops there.
enum class BenchVariant {
  default_,    ///< the result is mapped
  out,         ///< the result is copied into the rank's own memory
  first_read,  ///< every page of the result has been read
};

[[nodiscard]] std::string_view name(BenchVariant variant);

struct BenchOptions {
  BenchOp op = BenchOp::allreduce;
  int ranks = 2;
  std::uint64_t bytes_min = 1 << 10;  ///< one rank's input
  std::uint64_t bytes_max = 64 << 20;
  std::uint64_t factor = 4;
  int warmups = 5;
  int iterations = 20;
  DType dtype = DType::float32;
  ReduceOp redop = ReduceOp::sum;
  int root = 0;
  BenchVariant variant = BenchVariant::default_;
  bool check = true;
  bool plant_error = false;  ///< rank 0 gives one wrong element each round; the check must find it
  double timeout_s = 60;     ///< of each op
  std::string socket;        ///< empty: the default
  std::string memory;        ///< memory of the daemon, if one has to be started
  bool json = false;
};

[[nodiscard]] ExitStatus bench(const BenchOptions& options);

}  // namespace muster::cli
