// Segments: shared memory with exactly one writer for life. The table owns them, has them sealed in the one safe order
// (create, writer maps, seals, then readers), and gives them back when nobody needs them any more. What is behind them
// is the business of a SegmentBacking.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "memory/backing.hpp"
#include "memory/ledger.hpp"

namespace musterd {

using muster::ipc::ObjectId;

/// What is left of a segment or an object when nobody needs it, and takes long to give back.
struct Remains {
  SegmentMemoryPtr memory;            ///< of a segment
  std::shared_ptr<void> description;  ///< of an object
};

/// Segments up to this size may be charged to what is kept for small requests.
inline constexpr std::uint64_t small_segment_bytes_max = 256 << 10;

class Segment;
class SegmentTable;

/// The bytes of one object in a client's segment, counted there for as long as this lives. The segment outlives it.
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

/// Sparse segments are in a list, without a walk over all and without an allocation when an object ends.
using SparseHook = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// Leased segments are in a list of their client.
using LeasedHook = boost::intrusive::list_base_hook<boost::intrusive::tag<struct OfLeased>,
                                                    boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

/// A client that has had a segment's descriptor, in a list of what that client reads.
struct SegmentReader : boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
  SegmentId segment;
  Charge charge;
};
using SegmentReaders = std::map<ClientId, SegmentReader>;

/// One segment. Shared by the table, by the objects that lie in it, and by ops that read it.
class Segment : public SparseHook, public LeasedHook {
 public:
  enum class State : std::uint8_t {
    leased,   ///< its writer has not mapped it yet; no reader may get it
    sealing,  ///< it has, and seals are being added
    ready,    ///< sealed against resizing and any further writer
    hard,     ///< sealed against every write for ever
  };

  [[nodiscard]] SegmentId id() const { return id_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] Payer owner() const { return owner_; }  ///< client 0: written by the daemon
  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool hard_requested() const { return hard_requested_; }
  /// Null before it is made.
  [[nodiscard]] const SegmentMemoryPtr& memory() const { return memory_; }
  /// What a process is sent to map it: one descriptor, or none where only this process can reach it.
  [[nodiscard]] std::span<const int> descriptors() const { return {&descriptor_, descriptor_ < 0 ? 0U : 1U}; }
  /// Where the daemon has it: writable for its own segments, read-only for a client's. Null before state ready, and
  /// where the host has no address of it.
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::byte* at(std::uint64_t offset) const { return data_ ? data_ + offset : nullptr; }
  /// True if [offset, offset + bytes) lies inside.
  [[nodiscard]] bool contains(std::uint64_t offset, std::uint64_t bytes) const {
    return offset <= bytes_ && bytes <= bytes_ - offset;
  }
  [[nodiscard]] std::size_t live_objects() const { return residents_.size(); }
  [[nodiscard]] std::uint64_t live_bytes() const { return live_bytes_; }
  /// What objects keep that is not theirs: the rest of the segment.
  [[nodiscard]] std::uint64_t bytes_beside_objects() const;
  /// Nobody writes into it any more, and it is much larger than what lies in it. Stays true: nothing is added any more.
  [[nodiscard]] bool is_sparse() const;
  /// The objects in it, at most so many; the next call begins after them.
  [[nodiscard]] std::vector<ObjectId> next_residents(std::size_t count_max);

 private:
  friend class SegmentTable;
  friend class Resident;
  friend class NodeAudit;  ///< of the tests: adds up what is held
  SegmentId id_;
  std::uint64_t bytes_ = 0;
  Payer owner_;
  State state_ = State::leased;
  bool hard_requested_ = false;
  SegmentMemoryPtr memory_;
  int descriptor_ = -1;        ///< the memory's
  std::byte* data_ = nullptr;  ///< the memory's, without a call of it
  Charge bytes_charge_;        ///< with segment_heap_bytes
  Charge descriptor_charge_;
  SegmentReaders readers_;
  SegmentTable* table_ = nullptr;
  bool orphan_ = false;  ///< its client is gone, or has handed it over
  boost::intrusive::list<Resident> residents_;
  std::uint64_t live_bytes_ = 0;
};

using SegmentPtr = std::shared_ptr<Segment>;

class SegmentTable {
 public:
  /// What the table asks of others. Each may be empty.
  struct Hooks {
    /// The daemon has a new segment at its own addresses, to populate ahead of its first use.
    std::function<void(const SegmentMemoryPtr&)> mapped;
    /// Destroys it, perhaps elsewhere and later, then calls the function where the table lives: until then the segment
    /// stays charged.
    std::function<void(UserId, Remains, std::function<void()>)> dispose;
  };
  /// Outlives its segments.
  SegmentTable(Ledger& ledger, SegmentBacking& backing, Hooks hooks)
      : ledger_(ledger), backing_(backing), limits_(backing.limits()), hooks_(std::move(hooks)) {}
  SegmentTable(Ledger& ledger, SegmentBacking& backing) : SegmentTable(ledger, backing, Hooks()) {}

  /// What the kernel takes for a segment beside its pages: a file, and where it is mapped. Measured.
  static constexpr std::uint64_t segment_kernel_bytes = 2432;
  /// With what it takes of the heap here, in a pool of results, and while it is disposed of.
  static constexpr std::uint64_t segment_heap_bytes = 640 + segment_kernel_bytes;
  /// A segment that `client` will write. OutOfMemory if there is no room now.
  [[nodiscard]] muster::Result<SegmentPtr> lease(Payer client, std::uint64_t bytes, bool hard,
                                                 Turn turn = Turn::its_own);
  /// What is to be done for a segment outside of the table, where it may block: a client can lock its file for as long
  /// as it likes. `work` touches nothing that changes meanwhile; `finish` is called after it, where the table lives.
  struct Sealing {
    std::function<void()> work;
    std::function<muster::Result<void>()> finish;
  };
  /// The writer has mapped it: SegmentMemory::seal(), and then it is ready.
  [[nodiscard]] muster::Result<Sealing> mapped(ClientId client, SegmentId segment);
  /// The writer of a hard lease has unmapped it: SegmentMemory::seal_hard(), and then it is hard.
  [[nodiscard]] muster::Result<Sealing> hard_seal(ClientId client, SegmentId segment);
  /// The writer gives it back; Invalid while objects lie in it (use_count says so).
  [[nodiscard]] muster::Result<void> give_back(ClientId client, SegmentId segment);
  /// A segment that the daemon will write results of `user` in: charged, and nothing else yet. That takes no system
  /// call, so what turns out to be in vain costs little. OutOfMemory if there is no room now.
  [[nodiscard]] muster::Result<SegmentPtr> book_result(UserId user, std::uint64_t bytes, Turn turn = Turn::its_own);
  /// Gives it memory, once; then it is ready.
  [[nodiscard]] muster::Result<void> make_result(const SegmentPtr& segment);
  void drop_result(SegmentId segment);
  /// The client gets the descriptor and will map it. QuotaExceeded if it has no heap left for that; but for the first
  /// few, which its connection has paid for.
  [[nodiscard]] muster::Result<void> add_reader(const SegmentPtr& segment, Payer client);
  /// The client writes no more into its segment, which ends with the last object in it.
  [[nodiscard]] muster::Result<void> hand_over(ClientId client, SegmentId segment);
  /// Destroys what is left of an object, as what is left of a segment; it stays charged until then.
  void dispose(UserId user, std::shared_ptr<void> description, Charge charge);
  /// The client has unmapped a segment, mostly one that ended.
  void unmapped(ClientId client, SegmentId segment);
  static constexpr std::uint64_t reader_bytes =
      192;                                         ///< of maps, also once the segment has ended, with what malloc adds
  static constexpr std::size_t readers_free = 16;  ///< segments that a client reads for nothing
  /// A segment that ended while clients still map it. It stays charged until they don't.
  struct Ended {
    SegmentId segment;
    std::vector<ClientId> readers;
  };
  /// Those since the last call.
  [[nodiscard]] std::vector<Ended> take_ended();
  /// The client is gone: segments without objects go, the others when their last object does. Some now, and the rest by
  /// drop_more(), as they may be many.
  void drop_client(ClientId client);
  [[nodiscard]] bool drops() const { return !leaving_.empty(); }
  void drop_more();
  static constexpr std::size_t drops_of_turn = 128;  ///< about a tenth of a millisecond

  [[nodiscard]] SegmentPtr find(SegmentId segment) const;
  /// A segment that a client of `user` may read; Denied or Invalid otherwise.
  [[nodiscard]] muster::Result<SegmentPtr> readable(SegmentId segment, UserId user) const;
  [[nodiscard]] std::size_t size() const { return segments_.size(); }
  /// How many hold it beside its writer.
  [[nodiscard]] std::size_t holders_of(const SegmentPtr& segment) const;
  /// Of all segments.
  [[nodiscard]] std::uint64_t bytes_beside_objects() const { return bytes_beside_objects_; }
  /// One sparse segment after the other, again and again; null if there is none.
  [[nodiscard]] SegmentPtr next_sparse();
  [[nodiscard]] bool has_sparse() const { return !sparse_.empty(); }
  /// Grows when a segment becomes sparse, and when an object in a sparse one ends.
  [[nodiscard]] std::uint64_t sparse_changes() const { return sparse_changes_; }
  /// The client's own leased segment in a state to hold objects; Invalid or Denied otherwise.
  [[nodiscard]] muster::Result<SegmentPtr> owned(SegmentId segment, ClientId client) const;

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
  friend class Resident;
  void note_if_sparse(Segment& segment);
  [[nodiscard]] muster::Result<SegmentPtr> book(Payer payer, std::uint64_t bytes, Turn turn);
  [[nodiscard]] muster::Result<SegmentPtr> leased_to(SegmentId segment, ClientId client) const;

  [[nodiscard]] muster::Result<void> create(Segment& segment, SegmentSpec::Writer writer);
  void ready(Segment& segment) const;
  void end(Segment& segment);
  void orphan(Segment& segment);

  Ledger& ledger_;
  SegmentBacking& backing_;
  SegmentBacking::Limits limits_;
  Hooks hooks_;
  std::uint32_t last_id_ = 0;
  std::unordered_map<SegmentId, std::weak_ptr<Segment>> segments_;
  /// What outlives a segment while clients map it.
  struct Draining {
    std::shared_ptr<Charge> memory;  ///< the segment's, shared with its disposal
    SegmentReaders readers;
  };
  std::unordered_map<SegmentId, Draining> draining_;
  using Reads = boost::intrusive::list<SegmentReader, boost::intrusive::constant_time_size<false>>;
  /// What there is of a client, so that its end takes no walk over what others have.
  struct Client {
    boost::intrusive::list<Segment, boost::intrusive::base_hook<LeasedHook>,
                           boost::intrusive::constant_time_size<false>>
        leased;
    Reads reads;
    Reads reads_for_nothing;  ///< at most readers_free
  };
  /// Takes one thing off a client that is gone. What that took; 0 if nothing is left.
  std::size_t drop_one(ClientId id, Client& client);
  std::map<ClientId, Client> clients_;
  std::map<ClientId, Client> leaving_;  ///< those that are gone
  std::vector<Ended> ended_;
  boost::intrusive::list<Segment, boost::intrusive::base_hook<SparseHook>, boost::intrusive::constant_time_size<false>>
      sparse_;
  std::uint64_t sparse_changes_ = 0;
  std::uint64_t bytes_beside_objects_ = 0;
  std::unordered_map<SegmentId, SegmentPtr> kept_;  ///< those whose writer lives
};

}  // namespace musterd
