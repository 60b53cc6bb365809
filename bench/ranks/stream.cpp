// The bound: what memory gives when N inputs are read and one output is written, as plainly as a compiler can, on as
// many threads as the daemon has lanes. After McCalpin's STREAM.
#include <algorithm>
#include <thread>
#include <vector>

#include "protocol.hpp"

namespace {

void add(const std::vector<std::vector<float>>& inputs, float* output, std::size_t first, std::size_t last) {
  constexpr std::size_t block = 2048;
  for (std::size_t at = first; at < last; at += block) {
    const std::size_t end = std::min(at + block, last);
    for (std::size_t i = at; i < end; ++i) output[i] = inputs[0][i] + inputs[1][i];
    for (std::size_t input = 2; input < inputs.size(); ++input)
      for (std::size_t i = at; i < end; ++i) output[i] += inputs[input][i];
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t streams = argc > 1 ? std::stoul(argv[1]) : 4;
  const std::size_t threads = std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::vector<float>> inputs(streams);
  std::vector<float> output;
  const auto run_round = [&](const bench::Order& order, int round, bench::Round& clock) {
    const std::uint32_t seed = order.seed + static_cast<std::uint32_t>(round);
    output.resize(order.count);
    for (std::size_t rank = 0; rank < streams; ++rank) {
      inputs[rank].resize(order.count);
      bench::fill(inputs[rank], static_cast<int>(rank), seed);
    }
    const std::size_t each = order.count / threads;
    clock.begin();
    if (order.count * sizeof(float) < (1 << 20)) {
      add(inputs, output.data(), 0, order.count);
    } else {
      std::vector<std::thread> workers;
      for (std::size_t i = 0; i < threads; ++i)
        workers.emplace_back(
            [&, i] { add(inputs, output.data(), i * each, i + 1 == threads ? order.count : (i + 1) * each); });
      for (auto& worker : workers) worker.join();
    }
    clock.end();
    return bench::is_sum(output, static_cast<int>(streams), seed);
  };
  return bench::obey("stream", 0, run_round);
}
