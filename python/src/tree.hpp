// Takes nestings of dicts, lists, tuples, dataclasses and constants apart into a structure and arrays as leaves.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include <muster/ipc/description.hpp>

#include "module.hpp"
#include "structure.hpp"

namespace muster::python {

struct DeviceArray;

struct FoundLeaf {
  nb::object array;               ///< a NumPy array or a DeviceArray over the leaf's values
  DeviceArray* on_gpu = nullptr;  ///< `array`, if it is one
  LeafKind kind = LeafKind::numpy;
  DType dtype = DType::float32;
  bool as_given = true;    ///< `array` is the user's object itself, or lies in its memory on a GPU
  bool is_scalar = false;  ///< the user returned a number

  /// What keeps another library's memory on a GPU: the user's object, and whatever it holds for that. Each pair is a
  /// holder and what it holds. Nothing if that isn't known.
  using Holds = std::vector<std::pair<nb::object, nb::object>>;
  std::optional<Holds> holds = std::nullopt;
};

struct Tree {
  ipc::Description description;
  std::vector<FoundLeaf> leaves;
};

/// The result holds one reference on each leaf. Invalid for values that can't be stored (object arrays, cycles).
[[nodiscard]] Tree take_apart(nb::handle root);

}  // namespace muster::python
