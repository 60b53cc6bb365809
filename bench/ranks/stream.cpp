// The bound of large ops: how fast memory is when N inputs are read and one output is written, in the plainest code
// that a compiler can optimize, on as many threads as the daemon has lanes. After McCalpin's STREAM.
#include <algorithm>
#include <cstring>
#include <string>
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

/// Splits elements over the threads.
template <class Work>
void in_parallel(std::size_t count, const Work& work) {
  const std::size_t threads = std::max(1U, std::thread::hardware_concurrency());
  const std::size_t each = count / threads;
  std::vector<std::thread> workers;
  for (std::size_t i = 0; i < threads; ++i)
    workers.emplace_back([&, i] { work(i * each, i + 1 == threads ? count : (i + 1) * each); });
  for (auto& worker : workers) worker.join();
}

/// Runs all streams in one process. The op `put` is one memcpy into memory that has been written before.
class Stream final : public bench::Rank {
 public:
  explicit Stream(std::size_t streams) : inputs_(streams) {}

  void barrier() override {}

  void prepare(const bench::Order& order, std::uint32_t seed) override {
    output_.resize(order.count);
    for (std::size_t rank = 0; rank < inputs_.size(); ++rank) {
      inputs_[rank].resize(order.count);
      bench::fill(inputs_[rank], static_cast<int>(rank), seed);
    }
  }

  void run(const bench::Order& order) override {
    constexpr std::size_t worth_threads_bytes = 1 << 20;
    if (order.op == "put") std::memcpy(output_.data(), inputs_[0].data(), order.count * sizeof(float));
    else if (order.count * sizeof(float) < worth_threads_bytes) add(inputs_, output_.data(), 0, order.count);
    else
      in_parallel(order.count, [&](std::size_t first, std::size_t last) { add(inputs_, output_.data(), first, last); });
  }

  bool check(const bench::Order& order, std::uint32_t seed) override {
    return order.op == "put" ? bench::is_filled(output_, 0, seed)
                             : bench::is_sum(output_, static_cast<int>(inputs_.size()), seed);
  }

 private:
  std::vector<std::vector<float>> inputs_;
  std::vector<float> output_;
};

}  // namespace

int main(int argc, char** argv) {
  Stream stream(argc > 1 ? std::stoul(argv[1]) : 4);
  return bench::obey("stream", 0, stream);
}
