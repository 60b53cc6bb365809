// An allreduce over 4 processes. Start it with: muster run -n 4 -- ./allreduce
#include <muster/muster.hpp>

#include <chrono>
#include <cstdio>
#include <numeric>

int main() try {
  using namespace std::chrono_literals;
  auto client = muster::Client::connect().value();  // starts this node's daemon if there is none
  auto group = client.join("example").value();      // rank and world size from the environment

  // Memory inside the store: what is written here is never copied again.
  auto buffer = client.allocate<float>({1024, 1024}).value();
  for (auto& value : buffer.span()) value = static_cast<float>(group.rank() + 1);
  muster::Ref input = std::move(buffer).seal().value();

  muster::Work work = group.allreduce(input, muster::ReduceOp::sum).value();
  const auto sum = work.result<float>(10s).value();  // a read-only view of the one result, shared by all ranks

  const float ranks = static_cast<float>(group.world_size());
  const float expected = ranks * (ranks + 1) / 2;
  for (const float value : sum.span)
    if (value != expected) {
      std::printf("rank %d: expected %g, got %g\n", group.rank(), expected, value);
      return 1;
    }
  std::printf("rank %d of %d: every element is %g\n", group.rank(), group.world_size(), expected);
  group.leave().value();
  return 0;
} catch (const muster::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}
