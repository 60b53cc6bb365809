// An object's segments, mapped for as long as views over them exist. A ref alone does not keep a mapping: the object
// may move, and its old segment is given back only when nobody maps it any more.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>

#include "hold.hpp"
#include "segments.hpp"

namespace muster::detail {

/// What views keep.
struct Opening {
  Opening(std::shared_ptr<const Hold> of, Segments& among) : hold(std::move(of)), segments(among) {}
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;
  ~Opening();

  std::shared_ptr<const Hold> hold;
  Segments& segments;  ///< of the hold's connection
  ipc::SmallVector<ipc::SegmentId, 1> mapped;
  /// An address in each segment of a GPU, and whether a segment is pinned. Work of this process may still read there
  /// when the last view goes: that is waited for first.
  std::vector<const std::byte*> on_gpus;
  bool has_pinned = false;
};

struct Opened {
  std::shared_ptr<const Opening> opening;
  std::vector<ArrayView> views;
  [[nodiscard]] const std::shared_ptr<const Hold>& hold() const { return opening->hold; }
};

/// Views of all leaves, at the places that the hold names. Invalid if a segment is gone.
[[nodiscard]] Result<Opened> open_there(std::shared_ptr<const Hold> hold, Segments& segments);

}  // namespace muster::detail
