// A segment: shared memory with exactly one writer for life, the objects that lie in it, and who reads it. A
// SegmentBacking makes its memory, and the SegmentTable decides what becomes of it.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "memory/backing.hpp"
#include "memory/ledger.hpp"

namespace musterd {

using muster::ipc::ObjectId;

class Segment;
class SegmentTable;

/// Counts the bytes of one object in a client's segment, for as long as this lives. The segment outlives it.
class Resident : public boost::intrusive::list_base_hook<> {
 public:
  Resident(Segment& segment, ObjectId object, std::uint64_t bytes);
  Resident(Resident&& other) noexcept;
  Resident& operator=(Resident&&) = delete;
  ~Resident();

 private:
  friend class Segment;
  Segment* segment_;
  ObjectId object_;
  std::uint64_t bytes_;
};

/// Links the sparse segments: finding one takes no walk over all, and adding one when an object ends takes no
/// allocation.
using SparseHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// Links the leased segments of a client.
using LeasedHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfLeased>,
                                                    boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// A client that was sent a segment's descriptor. Linked into the list of what that client reads.
struct SegmentReader : boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
  SegmentId segment;
  Charge charge;
};
using SegmentReaders = std::map<ClientId, SegmentReader>;

/// One segment. Shared by the table, by the objects that lie in it, and by ops that read it.
class Segment : public SparseHook, public LeasedHook, public std::enable_shared_from_this<Segment> {
 public:
  enum class State : std::uint8_t {
    leased,   ///< its writer has not mapped it yet, and no reader may get it
    sealing,  ///< its writer has mapped it, and seals are being added
    ready,    ///< sealed against resizing and any further writer
    hard,     ///< sealed against every write for ever
  };

  [[nodiscard]] SegmentId id() const { return id_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] muster::Device device() const { return device_; }
  [[nodiscard]] Payer owner() const { return owner_; }  ///< client 0: the daemon is the writer
  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool hard_requested() const { return hard_requested_; }
  /// Whether the memory is its owner's, and was left where that has allocated it.
  [[nodiscard]] bool is_in_place() const { return in_place_; }
  /// Whether that owner has gone.
  [[nodiscard]] bool is_lost() const { return in_place_ && memory_->is_lost(); }
  /// Null before the memory is made.
  [[nodiscard]] const SegmentMemoryPtr& memory() const { return memory_; }
  /// What a process is sent to map the segment: one descriptor, or none if only this process can reach the memory.
  [[nodiscard]] std::span<const int> descriptors() const {
    descriptor_ = memory_ ? memory_->descriptor() : -1;
    return {&descriptor_, descriptor_ < 0 ? 0U : 1U};
  }
  /// The daemon's address of the segment: writable for its own segments, read-only for a client's. Null before state
  /// ready, and for memory without an address on the host.
  [[nodiscard]] std::byte* data() const { return data_; }
  /// True if [offset, offset + bytes) lies inside.
  [[nodiscard]] bool contains(std::uint64_t offset, std::uint64_t bytes) const {
    return offset <= bytes_ && bytes <= bytes_ - offset;
  }
  [[nodiscard]] std::size_t live_objects() const { return residents_.size(); }
  [[nodiscard]] std::uint64_t live_bytes() const { return live_bytes_; }
  /// The bytes that the objects keep though they are not theirs: the rest of the segment.
  [[nodiscard]] std::uint64_t bytes_beside_objects() const;
  /// True if nobody writes into the segment any more, and it is much larger than what lies in it. Stays true, as
  /// nothing is added to such a segment.
  [[nodiscard]] bool is_sparse() const;
  /// At most `count_max` of the objects in the segment; the next call begins after them.
  [[nodiscard]] std::vector<ObjectId> next_residents(std::size_t count_max);

 private:
  friend class SegmentTable;
  friend class Resident;
  friend class NodeAudit;  ///< in the tests; adds up what is held
  SegmentId id_;
  std::uint64_t bytes_ = 0;
  muster::Device device_;
  Payer owner_;
  State state_ = State::leased;
  bool hard_requested_ = false;
  bool in_place_ = false;
  SegmentMemoryPtr memory_;
  mutable int descriptor_ = -1;  ///< the memory's, as it was when somebody last asked
  std::byte* data_ = nullptr;    ///< the memory's, kept here to save a virtual call
  Charge bytes_charge_;          ///< includes segment_heap_bytes; of what was left in place, its number
  Charge descriptor_charge_;
  Charge map_charge_;
  SegmentReaders readers_;
  SegmentTable* table_ = nullptr;
  bool orphan_ = false;  ///< its client is gone, or has handed it over
  boost::intrusive::list<Resident> residents_;
  std::uint64_t live_bytes_ = 0;
};

using SegmentPtr = std::shared_ptr<Segment>;

}  // namespace musterd
