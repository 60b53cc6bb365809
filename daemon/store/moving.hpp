// Objects that have moved out of the segments that they were made in.
#pragma once

#include "store/leaf_index.hpp"
#include "store/store.hpp"

namespace musterd {

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
