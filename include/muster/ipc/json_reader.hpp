// Reads the JSON that another process of ours wrote. The text may be cut off or mixed with what a library printed, so
// everything is checked, and nothing of it can make the reader fail in another way than with an error.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <muster/result.hpp>

namespace muster::ipc {

/// One value of a document. What is missing, or of another kind than asked for, reads as an empty value: a reader need
/// not know which version wrote the document.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json, std::less<>>;

  Json() = default;
  template <class T>
  requires(!std::same_as<std::decay_t<T>, Json>) explicit Json(T content) : content_(std::move(content)) {}

  /// Invalid if the text is not one JSON document, or is nested more deeply than `depth_max`.
  [[nodiscard]] static Result<Json> parse(std::string_view text);

  [[nodiscard]] bool is_null() const { return std::holds_alternative<std::monostate>(content_); }
  [[nodiscard]] bool truth() const;
  [[nodiscard]] double number() const;
  [[nodiscard]] const std::string& text() const;
  [[nodiscard]] const Array& array() const;
  [[nodiscard]] const Json& operator[](std::string_view key) const;

  static constexpr int depth_max = 16;

 private:
  std::variant<std::monostate, bool, double, std::string, Array, Object> content_;
};

}  // namespace muster::ipc
