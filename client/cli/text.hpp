// Sizes, ages and counts as people write and read them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <muster/ipc/text.hpp>

namespace muster::cli {

[[nodiscard]] std::string format_age(double seconds);                         ///< "3.2 s", "12 min", "2 h 05 min"
[[nodiscard]] std::string format_count(std::uint64_t count);                  ///< "1 234 567"
[[nodiscard]] std::string format_shape(std::span<const std::int64_t> shape);  ///< "(1024, 3)", "()"
/// printf("%.*f"), without locale.
[[nodiscard]] std::string format_fixed(double value, int decimals);
[[nodiscard]] std::string join(std::span<const std::string> parts, std::string_view separator);
using ipc::nearest;
/// "1 rank", "3 ranks"
[[nodiscard]] std::string plural(std::uint64_t count, std::string_view noun);

enum class Align { left, right };

/// A table for people: columns as wide as their widest cell, two spaces apart.
class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::left;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row);
  [[nodiscard]] std::string render() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace muster::cli
