// A rank of MPI. MPI gives each rank a private copy of the result, so its default and its out= are the same.
#include <mpi.h>

#include <vector>

#include "protocol.hpp"

namespace {

class MpiRank final : public bench::Rank {
 public:
  MpiRank() {
    MPI_Comm_rank(MPI_COMM_WORLD, &number_);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks_);
  }
  [[nodiscard]] int number() const { return number_; }

  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }

  void prepare(const bench::Order& order, std::uint32_t seed) override {
    const bool in_parts = order.op != "allreduce";
    input_.resize(order.count);
    result_.resize(order.op == "reduce_scatter" ? part(order) : order.count);
    if (!in_parts) return bench::fill(input_, number_, seed);
    for (std::size_t to = 0; to < static_cast<std::size_t>(ranks_); ++to)
      bench::fill(std::span(input_).subspan(to * part(order), part(order)), number_,
                  seed + static_cast<std::uint32_t>(to));
  }

  void run(const bench::Order& order) override {
    const int each = static_cast<int>(part(order));
    if (order.op == "reduce_scatter")
      MPI_Reduce_scatter_block(input_.data(), result_.data(), each, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else if (order.op == "all_to_all")
      MPI_Alltoall(input_.data(), each, MPI_FLOAT, result_.data(), each, MPI_FLOAT, MPI_COMM_WORLD);
    else
      MPI_Allreduce(input_.data(), result_.data(), static_cast<int>(order.count), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  }

  bool check(const bench::Order& order, std::uint32_t seed) override {
    if (order.op == "allreduce") return bench::is_sum(result_, ranks_, seed);
    const auto own_part = seed + static_cast<std::uint32_t>(number_);
    if (order.op == "reduce_scatter") return bench::is_sum(result_, ranks_, own_part);
    for (int from = 0; from < ranks_; ++from)
      if (!bench::is_filled(std::span(result_).subspan(static_cast<std::size_t>(from) * part(order), part(order)), from,
                            own_part))
        return false;
    return true;
  }

 private:
  [[nodiscard]] std::size_t part(const bench::Order& order) const {
    return order.count / static_cast<std::size_t>(ranks_);
  }

  int number_ = 0;
  int ranks_ = 0;
  std::vector<float> input_;
  std::vector<float> result_;
};

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MpiRank rank;
  const int status = bench::obey("openmpi", rank.number(), rank);
  MPI_Finalize();
  return status;
}
