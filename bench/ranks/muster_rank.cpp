// A rank of Muster's C++ client. The clock runs from before the seal of its input until the result can be read.
#include <muster/muster.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "protocol.hpp"

int main() try {
  using muster::ReduceOp;
  auto client = muster::Client::connect().value();
  auto group = client.join("bench-c++").value();
  const bool planted = std::getenv("BENCH_PLANT") && group.rank() == 0;
  std::vector<float> own;  // where an op with out= puts its result
  const auto run_round = [&](const bench::Order& order, int round, bench::Round& clock) {
    const std::uint32_t seed = order.seed + static_cast<std::uint32_t>(round);
    auto input = client.allocate<float>({static_cast<std::int64_t>(order.count)}).value();
    bench::fill(input.span(), group.rank(), seed);
    if (planted) input.span().back() += 1;
    own.resize(order.variant == "out" ? order.count : 0);
    group.barrier().value().wait().value();
    clock.begin();
    const auto ref = std::move(input).seal().value();
    const auto result = group.allreduce(ref, ReduceOp::sum).value().result<float>().value();
    std::span<const float> values = result.span;
    if (order.variant == "out") {
      std::memcpy(own.data(), values.data(), values.size_bytes());
      values = own;
    } else if (order.variant == "first_read") {
      constexpr std::size_t page = 1024;
      float sum = 0;
      for (std::size_t i = 0; i < values.size(); i += page) sum += values[i];
      static_cast<void>(*const_cast<volatile float*>(&sum));
    }
    clock.end();
    return bench::is_sum(values, group.world_size(), seed);
  };
  return bench::obey("muster-c++", group.rank(), run_round);
} catch (const muster::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}
