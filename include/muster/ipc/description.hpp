// What an object says about its value beside the arrays: its structure and its guise, and those of the value's parts.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace muster::ipc {

struct Description {
  std::string structure;
  std::string guise;
};

/// An element of a list or tuple: what describes it, and how many leaves it has.
struct Element {
  Description description;
  std::size_t leaves = 0;
};
/// The elements of a value that is a list or tuple; nothing if it is something else. Throws DamagedStructure.
[[nodiscard]] std::optional<std::vector<Element>> elements_of(std::string_view structure, std::string_view guise);

}  // namespace muster::ipc
