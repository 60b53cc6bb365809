// Objects that lie elsewhere than they did at first.
#pragma once

#include "store/leaf_index.hpp"
#include "store/store.hpp"

namespace musterd {

/// Tells where the leaves of a part lie by now, if they were named by an earlier place of the whole.
class EarlierPlaces {
 public:
  /// `whole` must outlive this, and stay where it is.
  explicit EarlierPlaces(const Object& whole) : whole_(whole), before_(leaves_before(whole)) {}
  /// The leaf itself if no earlier place contains it.
  [[nodiscard]] muster::ipc::Leaf now(const muster::ipc::Leaf& leaf);

 private:
  [[nodiscard]] static std::span<const muster::ipc::Leaf> leaves_before(const Object& whole);
  const Object& whole_;
  LeafIndex before_;
};

/// Sorts them by id.
void each_once(Segments& segments);
/// Counts the object in the clients' segments that it lies in, and in no others.
void count_where_it_lies(Object& object);

}  // namespace musterd
