// What else an object says about its value, and what ranks of an op need not agree on: which library each array came
// from, and in which order a dict had its keys. `structure.hpp` says how a guise is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace muster::ipc {

/// The kind of array that a leaf was when it came in, and is again when it goes out: a letter of the guise.
enum class LeafKind : char { numpy = 'A', matrix = 'M', torch = 'T', jax = 'J', cupy = 'C' };
[[nodiscard]] std::string_view name(LeafKind kind);
[[nodiscard]] std::optional<LeafKind> leaf_kind_named(std::string_view name);

class GuiseWriter {
 public:
  void leaf(LeafKind kind) { kinds_.push_back(static_cast<char>(kind)); }
  /// The order of a dict's keys: the place in the structure of its first key, its second and so on.
  void order(std::size_t dict, std::span<const std::uint32_t> places);
  [[nodiscard]] std::string take() const;

 private:
  friend class Guise;
  void number(std::size_t number);
  std::string kinds_;
  std::string orders_;
};

/// Reads a guise, and refers to its bytes. Its writer may be hostile, so everything may throw DamagedStructure.
class Guise {
 public:
  explicit Guise(std::string_view text);

  [[nodiscard]] LeafKind kind(std::size_t leaf) const;
  /// The place in the structure of the dict's first key, its second and so on. Nothing if the keys are in the
  /// structure's order.
  [[nodiscard]] std::optional<std::vector<std::size_t>> places(std::size_t dict, std::size_t keys) const;
  /// The guise of a part of the value that has these leaves and dicts.
  [[nodiscard]] std::string slice(std::size_t leaf, std::size_t leaves, std::size_t dict, std::size_t dicts) const;

 private:
  struct Order {
    std::size_t dict = 0;
    std::string_view places;
  };

  std::string_view take(std::size_t bytes);
  std::size_t number();
  [[nodiscard]] std::vector<Order>::const_iterator first_from(std::size_t dict) const;

  std::string_view rest_;
  std::string_view kinds_;
  std::vector<Order> orders_;
};

}  // namespace muster::ipc
