// Objects that have moved out of the segments that they were made in.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <muster/ipc/manifest.hpp>

#include "memory/place.hpp"
#include "memory/result_pool.hpp"
#include "store/leaf_index.hpp"
#include "store/object.hpp"

namespace musterd {

/// An object on its way out of a segment.
struct Move {
  ObjectId object;
  std::weak_ptr<const Object> what;  ///< another object may have this id when the move ends
  SegmentPtr from;
  struct Piece {
    std::uint32_t leaf = 0;
    Place place;
    std::uint64_t bytes = 0;
    std::uint64_t offset = 0;  ///< in the new region
  };
  std::vector<Piece> pieces;
  std::uint64_t bytes = 0;  ///< of the new region
  ResultRegion to;
};

/// Tells where the leaves of a part lie now, if the part names them by an earlier place of the whole.
class EarlierPlaces {
 public:
  /// `whole` must outlive this, and must not move meanwhile.
  explicit EarlierPlaces(const Object& whole) : whole_(whole), before_(leaves_before(whole)) {}
  /// Where `leaf` lies now; `leaf` itself if no earlier place contains it.
  [[nodiscard]] muster::ipc::Leaf now(const muster::ipc::Leaf& leaf);

 private:
  [[nodiscard]] static std::span<const muster::ipc::Leaf> leaves_before(const Object& whole);
  const Object& whole_;
  LeafIndex before_;
};

/// Sorts the segments by id, and leaves each in the list once.
void each_once(Segments& segments);
/// Counts the object in the clients' segments that it lies in, and in no others.
void count_where_it_lies(Object& object);

}  // namespace musterd
