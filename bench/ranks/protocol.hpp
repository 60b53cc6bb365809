// What all C++ ranks of the suite have in common. A rank takes orders from the coordinator over a Unix socket, so it
// sleeps between them. It fills its input with fresh values, times one op, and checks the result on every page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace bench {

/// One order: `rounds` ops of one kind and size.
struct Order {
  std::string op;
  std::string variant;    ///< default, out, first_read, seal
  std::size_t count = 0;  ///< float32 elements of one rank's input
  int rounds = 0;
  std::uint32_t seed = 0;
};

/// One rank of a system under test. A round is prepare(), two barriers so that all ranks are here and awake, run()
/// while the clock runs, a barrier so that ranks that are done take no core from the others, and check().
class Rank {
 public:
  virtual ~Rank() = default;
  /// Waits for all ranks, with the system's own barrier.
  virtual void barrier() = 0;
  /// Writes fresh values into the input.
  virtual void prepare(const Order& order, std::uint32_t seed) = 0;
  /// Runs the op until its result can be read.
  virtual void run(const Order& order) = 0;
  /// Checks the result on every page.
  [[nodiscard]] virtual bool check(const Order& order, std::uint32_t seed) = 0;
};

/// Each page's first element has its own value; all other elements are equal.
void fill(std::span<float> values, int rank, std::uint32_t seed);
/// Checks two elements of each page.
[[nodiscard]] bool is_filled(std::span<const float> values, int rank, std::uint32_t seed);
/// The same check for the sum over `ranks`.
[[nodiscard]] bool is_sum(std::span<const float> values, int ranks, std::uint32_t seed);

/// Connects, then follows orders until the coordinator says quit. Returns the process's exit status.
int obey(const std::string& system, int number, Rank& rank);

}  // namespace bench
