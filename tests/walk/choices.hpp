// The choices of a walk or a fuzz target, taken from bytes: of a seed or of a fuzzer.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace musterd::testing {

class Choices {
 public:
  explicit Choices(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  /// Returns 0 once all bytes are used.
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const std::uint8_t next = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return next;
  }
  /// Returns a number below `bound`, which is at most 256.
  std::uint32_t below(std::size_t bound) { return bound == 0 ? 0 : byte() % static_cast<std::uint32_t>(bound); }
  /// Returns true in one of `times` cases; never once all bytes are used.
  bool once_in(std::uint32_t times) { return below(times) == times - 1; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[below(values.size())];
  }
  template <class Container>
  auto& one_of(Container& values) {
    return *std::next(values.begin(), static_cast<std::ptrdiff_t>(below(values.size())));
  }
  std::span<const std::uint8_t> rest() { return std::exchange(bytes_, {}); }

 private:
  std::span<const std::uint8_t> bytes_;
};

inline std::vector<std::uint8_t> random_bytes(std::uint32_t seed, std::size_t count) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

}  // namespace musterd::testing
