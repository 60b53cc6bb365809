// An object, and what the store knows of it. An object is immutable but for where it lies; what may change about it
// stands in its entry.
#pragma once

#include <algorithm>
#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ipc/small_vector.hpp>

#include "base/time.hpp"
#include "memory/ledger.hpp"
#include "memory/place.hpp"
#include "memory/result_pool.hpp"
#include "memory/segment_table.hpp"
#include "store/holders.hpp"

namespace musterd {

using muster::ipc::Capability;
using muster::ipc::Manifest;
using muster::ipc::ObjectId;

using Segments = muster::ipc::SmallVector<SegmentPtr, 1>;
using Memories = muster::ipc::SmallVector<const SegmentMemory*, 1>;

struct StoreEntry;

/// Leaves that have moved. A client that was told the first place may still name it.
struct MovedLeaves {
  std::vector<muster::ipc::Leaf> before;              ///< where they lay
  std::vector<std::uint32_t> leaves;                  ///< their indexes in the manifest
  muster::ipc::SmallVector<ResultRegion, 1> regions;  ///< where they lie now
  Charge charge;                                      ///< of what is remembered here
};

/// Immutable once made, but for where it lies: see Store::finish_move(). A shared_ptr keeps it alive (an op just has a
/// copy of the pointer), and the store notices its end.
struct Object {
  ObjectId id;
  Capability capability;
  UserId user = 0;
  ClientId maker;  ///< 0: the daemon
  TimePoint made;
  Manifest manifest;
  std::uint64_t bytes = 0;               ///< of all leaves; a bundle may have too many to add them up each time
  Segments segments;                     ///< where its bytes lie; each segment once, sorted by id
  Memories memories;                     ///< the memory of each leaf, null for leaves without bytes
  bool in_place = false;                 ///< some of it lies where its owner has left it, and ends with that
  std::shared_ptr<const Object> parent;  ///< if it is a part: the object whose bytes these are, which is no part itself
  ResultRegion region;                   ///< of a result
  StoreEntry* entry = nullptr;           ///< what the store knows of it
  std::unique_ptr<MovedLeaves> moved;    ///< null if no leaf has moved
  Charge slot;
  Charge metadata;  ///< of a large manifest
  /// Its bytes in clients' segments. A part has none here, as its bytes are its whole's.
  muster::ipc::SmallVector<Resident, 1> residents;

  [[nodiscard]] Place place(std::size_t leaf) const { return {memories[leaf], manifest.leaves[leaf].offset}; }
};
using ObjectPtr = std::shared_ptr<const Object>;

/// Links objects that only loaded pickles keep. It takes no allocation, as an object gets there when a hold ends.
using PickleHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// Links objects that have ended, until their makers are told. It takes no allocation either.
using GoneHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfGone>,
                                                  boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// Links the objects of a user, the oldest first.
using UserHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfUser>,
                                                  boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// What may change about an object.
struct StoreEntry : PickleHook, GoneHook, UserHook {
  ObjectId id;
  ClientId maker;
  UserId user = 0;
  ObjectPtr strong;  ///< set while a holder needs the store to keep the object
  std::weak_ptr<const Object> weak;
  Holders holders;
  const char* end_reason = "freed";

  /// Lets the object go unless a holder needs it. It ends now, or with the last op or part that has it.
  void end_unless_held(const char* reason) {
    if (holders.need_store()) return;
    end_reason = reason;
    strong.reset();
  }
};

/// Whether the owner of what was left in place has gone. Then nobody can rely on the bytes any more.
[[nodiscard]] inline bool is_lost(const Object& object) {
  return object.in_place && std::ranges::any_of(object.segments, [](const auto& each) { return each->is_lost(); });
}

[[nodiscard]] inline std::string label_of(ObjectId id) { return "object " + muster::ipc::text_of(id); }

/// What malloc adds to a block.
inline constexpr std::uint64_t block_bytes = 32;
/// About what an element of `bytes` takes in a table, with the table's free elements and its copy while it grows.
[[nodiscard]] constexpr std::uint64_t in_table(std::uint64_t bytes) { return 3 * (bytes + 1); }

/// An object's description above this size is charged as memory, of which there is more than heap.
inline constexpr std::uint64_t metadata_in_heap_max = 4096;

}  // namespace musterd
