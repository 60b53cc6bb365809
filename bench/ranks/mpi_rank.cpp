// A rank of MPI. Each rank has a private copy of the result, as MPI gives it: that is both its default and its out=.
#include <mpi.h>

#include <vector>

#include "protocol.hpp"

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  int ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  std::vector<float> input;
  std::vector<float> result;
  const auto run_round = [&](const bench::Order& order, int round, bench::Round& clock) {
    const std::uint32_t seed = order.seed + static_cast<std::uint32_t>(round);
    input.resize(order.count);
    result.resize(order.count);
    bench::fill(input, rank, seed);
    MPI_Barrier(MPI_COMM_WORLD);
    clock.begin();
    MPI_Allreduce(input.data(), result.data(), static_cast<int>(order.count), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    clock.end();
    return bench::is_sum(result, ranks, seed);
  };
  const int status = bench::obey("openmpi", rank, run_round);
  MPI_Finalize();
  return status;
}
