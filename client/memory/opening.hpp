// An object's segments, mapped for as long as views over them exist. A ref alone keeps no mapping in use: the object
// may move, and where it lay is given back only when nobody maps it any more.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>

#include "hold.hpp"

namespace muster::detail {

/// What views keep.
struct Opening {
  explicit Opening(std::shared_ptr<const Hold> from) : hold(std::move(from)) {}
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;
  ~Opening();

  std::shared_ptr<const Hold> hold;
  ipc::SmallVector<ipc::SegmentId, 1> mapped;
};

struct Opened {
  std::shared_ptr<const Opening> opening;
  std::vector<ArrayView> views;
  [[nodiscard]] const std::shared_ptr<const Hold>& hold() const { return opening->hold; }
};

/// Views of all leaves. The hold behind them may be another than this one: see usable().
[[nodiscard]] Result<Opened> open(const std::shared_ptr<const Hold>& hold);

}  // namespace muster::detail
