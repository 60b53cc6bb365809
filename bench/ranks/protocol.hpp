// What every C++ rank of the suite does alike: it takes orders from the coordinator over a Unix socket (so that it
// sleeps between them), fills its input with fresh values, times one op, and checks the result on every page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace bench {

/// One order: `rounds` ops of one kind and size.
struct Order {
  std::string op;
  std::string variant;    ///< default, out, first_read
  std::size_t count = 0;  ///< float32 elements of one rank's input
  int rounds = 0;
  std::uint32_t seed = 0;
};

/// What a round of a rank is made of; `begin` and `end` are the clock's.
class Round {
 public:
  void begin();
  void end();
  [[nodiscard]] double time_us() const { return time_us_; }
  [[nodiscard]] double cpu_us() const { return cpu_us_; }

 private:
  double time_us_ = 0;
  double cpu_us_ = 0;
};

/// Each page's first element has a value of its own, the others are the same.
void fill(std::span<float> values, int rank, std::uint32_t seed);
/// Of an allreduce over `ranks`; looks at two elements of each page.
[[nodiscard]] bool is_sum(std::span<const float> values, int ranks, std::uint32_t seed);

/// Connects, then obeys until the coordinator says quit. Returns the process's exit status.
int obey(const std::string& system, int rank, const std::function<bool(const Order&, int round, Round&)>& run_round);

}  // namespace bench
