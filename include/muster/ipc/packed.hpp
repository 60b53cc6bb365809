// Packs numbers and texts into bytes, and unpacks them with checks. Every field lies at a multiple of its own size up
// to 8, so both ends copy whole numbers. The wire has the machine's byte order.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace muster::ipc {

static_assert(std::endian::native == std::endian::little, "the packed forms are little endian");

/// Numbers, or structs of numbers without gaps, so that their bytes are their value.
template <class T>
concept Packed = std::is_arithmetic_v<T> || std::has_unique_object_representations_v<T>;

class Packer {
 public:
  explicit Packer(std::vector<std::byte>& out) : out_(out), begin_(out.size()) {}

  /// Appends one number, or all the fields of fixed size that a record begins with.
  template <Packed T>
  void fixed(const T& value) {
    append(&value, sizeof value);
  }
  template <Packed T>
  void numbers(std::span<const T> values) {
    append(values.data(), values.size_bytes());
  }
  void text(std::string_view text) { append(text.data(), text.size()); }
  /// Appends zeros up to the next multiple of 8 from where this packer began.
  void pad() { out_.resize(begin_ + (out_.size() - begin_ + 7) / 8 * 8); }

 private:
  void append(const void* data, std::size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), begin, begin + bytes);
  }
  std::vector<std::byte>& out_;
  std::size_t begin_;
};

/// Reads what a Packer wrote. After the first failure everything reads as zero or empty. So a reader may take all its
/// fields and check once, at the end.
class Unpacker {
 public:
  explicit Unpacker(std::span<const std::byte> bytes) : all_(bytes), rest_(bytes) {}

  template <Packed T>
  [[nodiscard]] T fixed() {
    T value{};
    if (const auto taken = take(sizeof value); !taken.empty()) std::memcpy(&value, taken.data(), sizeof value);
    return value;
  }
  template <Packed T, class Values = std::vector<T>>
  [[nodiscard]] Values numbers(std::uint64_t count) {
    const auto taken = take_array(count, sizeof(T));
    Values values(taken.size() / sizeof(T));
    if (!taken.empty()) std::memcpy(values.data(), taken.data(), taken.size());
    return values;
  }
  [[nodiscard]] std::string text(std::uint64_t bytes) {
    const auto taken = take_array(bytes, 1);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }
  [[nodiscard]] std::span<const std::byte> bytes(std::uint64_t count) { return take_array(count, 1); }
  /// The enumerator of a number that was read; it must be below `count`.
  template <class Enum>
  [[nodiscard]] Enum enumerator(std::underlying_type_t<Enum> value, std::size_t count, const char* problem) {
    require(value < count, problem);
    return static_cast<Enum>(value < count ? value : 0);
  }
  /// Skips the zeros of Packer::pad().
  void pad() {
    const std::size_t used = all_.size() - rest_.size();
    for (const auto byte : take((8 - used % 8) % 8)) require(byte == std::byte{0}, "padding is not zero");
  }
  void require(bool holds, const char* problem) {
    if (!holds && problem_ == nullptr) fail(problem);
  }
  /// All bytes must have been read.
  void finish() { require(rest_.empty(), "it has more bytes than it needs"); }

  [[nodiscard]] std::size_t rest_bytes() const { return rest_.size(); }
  /// What the first failure was; null if there was none.
  [[nodiscard]] const char* problem() const { return problem_; }

 private:
  std::span<const std::byte> take(std::size_t bytes) {
    if (bytes > rest_.size()) return fail("it has fewer bytes than it needs"), std::span<const std::byte>{};
    const auto taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }
  std::span<const std::byte> take_array(std::uint64_t count, std::size_t element_bytes) {
    if (count > rest_.size() / element_bytes)
      return fail("it has fewer bytes than it needs"), std::span<const std::byte>{};
    return take(static_cast<std::size_t>(count) * element_bytes);
  }
  void fail(const char* problem) {
    if (problem_ == nullptr) problem_ = problem;
    rest_ = {};
  }
  std::span<const std::byte> all_;
  std::span<const std::byte> rest_;
  const char* problem_ = nullptr;
};

}  // namespace muster::ipc
