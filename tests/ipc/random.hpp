// Random values from a seed, for property tests: a failure names its seed, so it can be replayed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace muster::ipc::test {

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// In [low, high].
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(engine_);
  }
  std::uint64_t bits() { return engine_(); }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(engine_); }
  std::vector<std::byte> bytes(std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (auto& byte : bytes) byte = static_cast<std::byte>(engine_());
    return bytes;
  }
  std::string text(std::size_t bytes_max) {
    std::string text(between(0, bytes_max), '\0');
    for (auto& letter : text) letter = static_cast<char>(engine_());
    return text;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace muster::ipc::test
