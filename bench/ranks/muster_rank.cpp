// A rank of Muster's C++ client. Inputs are sealed before the clock runs; the variant `seal` seals while it runs.
#include <muster/muster.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "protocol.hpp"

namespace {

using muster::ReduceOp;
using muster::Ref;

class MusterRank final : public bench::Rank {
 public:
  MusterRank() : client_(muster::Client::connect().value()), group_(client_.join("bench-c++").value()) {}
  [[nodiscard]] int number() const { return group_.rank(); }

  void barrier() override { group_.barrier().value().wait().value(); }

  void prepare(const bench::Order& order, std::uint32_t seed) override {
    result_.clear();
    inputs_.clear();
    const bool in_parts = order.op == "reduce_scatter" || order.op == "all_to_all" || order.op == "scatter";
    const auto parts = static_cast<std::size_t>(in_parts ? group_.world_size() : 1);
    for (std::size_t part = 0; part < parts; ++part) {
      buffer_.emplace(client_.allocate<float>({static_cast<std::int64_t>(order.count / parts)}).value());
      bench::fill(buffer_->span(), number(), seed + static_cast<std::uint32_t>(part));
      if (planted_) buffer_->span().back() += 1;
      if (order.variant != "seal") seal();
    }
    own_.resize(order.variant == "out" ? order.count : 0);
  }

  void run(const bench::Order& order) override {
    if (order.variant == "seal") seal();
    const auto outcome = start(order).wait().value();
    for (const Ref& ref : outcome.refs) result_.push_back(ref.get().value().front());
    if (order.variant == "out") std::memcpy(own_.data(), result_.front().data(), own_.size() * sizeof(float));
    if (order.variant == "first_read") read_each_page(result_.front().span<float>());
  }

  bool check(const bench::Order& order, std::uint32_t seed) override {
    const auto own_part = seed + static_cast<std::uint32_t>(number());
    const bool at_root = number() == 0;
    if (order.op == "allreduce")
      return bench::is_sum(order.variant == "out" ? std::span<const float>(own_) : result_.front().span<float>(),
                           group_.world_size(), seed);
    if (order.op == "reduce_scatter")
      return bench::is_sum(result_.front().span<float>(), group_.world_size(), own_part);
    if (order.op == "broadcast") return bench::is_filled(result_.front().span<float>(), 0, seed);
    if (order.op == "scatter") return bench::is_filled(result_.front().span<float>(), 0, own_part);
    if (order.op == "gather" && !at_root) return result_.empty();
    bool right = result_.size() == static_cast<std::size_t>(group_.world_size());
    for (int rank = 0; right && rank < group_.world_size(); ++rank)
      right = bench::is_filled(result_[static_cast<std::size_t>(rank)].span<float>(), rank,
                               order.op == "all_to_all" ? own_part : seed);
    return right;
  }

 private:
  void seal() {
    inputs_.push_back(std::move(*buffer_).seal().value());
    buffer_.reset();
  }

  muster::Work start(const bench::Order& order) {
    if (order.op == "allreduce") return group_.allreduce(inputs_.front(), ReduceOp::sum).value();
    if (order.op == "broadcast") return group_.broadcast(inputs_.front(), 0).value();
    if (order.op == "allgather") return group_.allgather(inputs_.front()).value();
    if (order.op == "gather") return group_.gather(inputs_.front(), 0).value();
    if (order.op == "scatter") return group_.scatter(inputs_, 0).value();
    if (order.op == "reduce_scatter") return group_.reduce_scatter(inputs_, ReduceOp::sum).value();
    if (order.op == "all_to_all") return group_.all_to_all(inputs_).value();
    throw muster::Error(muster::Code::invalid, "the suite has no op " + order.op);
  }

  static void read_each_page(std::span<const float> values) {
    constexpr std::size_t page = 1024;
    float sum = 0;
    for (std::size_t i = 0; i < values.size(); i += page) sum += values[i];
    static_cast<void>(*const_cast<volatile float*>(&sum));
  }

  muster::Client client_;
  muster::Group group_;
  bool planted_ = std::getenv("BENCH_PLANT") && group_.rank() == 0;
  std::optional<muster::Buffer<float>> buffer_;
  std::vector<Ref> inputs_;
  std::vector<muster::ArrayView> result_;
  std::vector<float> own_;  ///< the result of an op with out=
};

}  // namespace

int main() try {
  MusterRank rank;
  return bench::obey("muster-c++", rank.number(), rank);
} catch (const muster::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}
