// All segments of a node, and the policy for them. The table owns them and charges them. It has them sealed in the one
// safe order (create, the writer maps, seal, then readers), and gives them back when nobody needs them any more. It has
// many functions: each step of a segment's life is one, and half of them only look.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "memory/backing.hpp"
#include "memory/ledger.hpp"
#include "memory/segment.hpp"

namespace musterd {

/// What is left of a segment or an object that nobody needs. Giving it back takes long.
struct Remains {
  SegmentMemoryPtr memory;            ///< of a segment
  std::shared_ptr<void> description;  ///< of an object
};

/// ObjectLost, for `what` was left in place by a client that has gone.
[[nodiscard]] muster::Error owner_gone(const std::string& what);

/// Segments up to this size may use the reserve for small requests.
inline constexpr std::uint64_t small_segment_bytes_max = 256 << 10;

class SegmentTable {
 public:
  /// Functions that the table calls. Each may be empty.
  struct Hooks {
    /// The daemon has a new segment at its own addresses. It may be populated ahead of its first use.
    std::function<void(const SegmentMemoryPtr&)> mapped;
    /// Destroys the remains, perhaps elsewhere and later, then calls the function on the table's thread. Until then the
    /// segment stays charged.
    std::function<void(UserId, Remains, std::function<void()>)> dispose;
    /// take_over() has something, and the caller of the table does not know.
    std::function<void()> over = {};
    /// There was no memory to note that this client's memory is over, so it can't be told.
    std::function<void(ClientId)> untold = {};
  };
  /// The table must outlive its segments.
  SegmentTable(Ledger& ledger, Backings backings, Hooks hooks)
      : ledger_(ledger), backings_(std::move(backings)), hooks_(std::move(hooks)) {}
  SegmentTable(Ledger& ledger, Backings backings) : SegmentTable(ledger, std::move(backings), Hooks()) {}
  ~SegmentTable();
  SegmentTable(const SegmentTable&) = delete;
  SegmentTable& operator=(const SegmentTable&) = delete;

  /// What the kernel takes for a segment beside its pages: a file and a mapping. Measured.
  static constexpr std::uint64_t segment_kernel_bytes = 2432;
  /// All that a segment takes: in the kernel, and of the heap here, in a pool of results, and while it is disposed of.
  static constexpr std::uint64_t segment_heap_bytes = 640 + segment_kernel_bytes;
  /// What a client asks for.
  struct Wanted {
    std::uint64_t bytes = 0;
    bool hard = false;
    muster::Device device{};
  };
  /// Makes a segment that `client` will write. OutOfMemory if there is no room now, Invalid if the node has no memory
  /// on the device.
  [[nodiscard]] muster::Result<SegmentPtr> lease(Payer client, const Wanted& wanted, Turn turn = Turn::its_own);
  /// Makes a segment of memory that `client` has allocated on a device, and leaves it there. It is charged by number,
  /// and ready for objects once opened() was called.
  [[nodiscard]] muster::Result<SegmentPtr> leave_in_place(Payer client, muster::Device device,
                                                          const muster::ipc::InPlaceMemory& memory);
  /// The device has opened it: see SegmentMemory::when_made().
  static void opened(Segment& segment) { segment.state_ = Segment::State::ready; }
  /// Memory that was left in place, and that nobody but its owner has open any more.
  struct Over {
    SegmentId segment;
    ClientId owner;
  };
  /// What is over since the last call.
  [[nodiscard]] std::list<Over> take_over() { return std::exchange(over_, {}); }
  /// Whether the node has memory on the device.
  [[nodiscard]] bool has(muster::Device device) const { return backings_.find(device) != nullptr; }
  /// All devices on which the node has memory.
  [[nodiscard]] std::span<const muster::Device> devices() const { return backings_.devices(); }
  [[nodiscard]] const Backings& backings() const { return backings_; }
  /// Work for a segment that may block, as a client can lock the file for as long as it likes. `work` runs on another
  /// thread, and touches nothing that changes meanwhile. `finish` is called after it, on the table's thread.
  struct Sealing {
    std::function<void()> work;
    std::function<muster::Result<void>()> finish;
  };
  /// The writer has mapped the segment. The work is SegmentMemory::seal(), and then the segment is ready.
  [[nodiscard]] muster::Result<Sealing> mapped(ClientId client, SegmentId segment);
  /// The writer of a hard lease has unmapped it. The work is SegmentMemory::seal_hard(), and then the segment is hard.
  [[nodiscard]] muster::Result<Sealing> hard_seal(ClientId client, SegmentId segment);
  /// The writer gives the segment back. Invalid while objects lie in it (use_count says so).
  [[nodiscard]] muster::Result<void> give_back(ClientId client, SegmentId segment);
  /// Books a segment for results of `user`, which the daemon will write: it is charged, and nothing else yet. That
  /// takes no system call, so an attempt that fails later costs little. OutOfMemory if there is no room now.
  [[nodiscard]] muster::Result<SegmentPtr> book_result(UserId user, std::uint64_t bytes, Turn turn = Turn::its_own,
                                                       muster::Device device = muster::Device::cpu());
  /// Gives a booked segment its memory, once. Then it is ready.
  [[nodiscard]] muster::Result<void> make_result(const SegmentPtr& segment);
  void drop_result(SegmentId segment);
  /// Notes that the client gets the descriptor and will map the segment. QuotaExceeded if the client has no heap left
  /// for that. The connection has paid for the first few.
  [[nodiscard]] muster::Result<void> add_reader(const SegmentPtr& segment, Payer client);
  /// Notes that the client writes no more into its segment, which then ends with the last object in it.
  [[nodiscard]] muster::Result<void> hand_over(ClientId client, SegmentId segment);
  /// Has what is left of an object destroyed, as for a segment. It stays charged until then.
  void dispose(UserId user, std::shared_ptr<void> description, Charge charge);
  /// Notes that the client has unmapped a segment, usually one that has ended.
  void unmapped(ClientId client, SegmentId segment);
  static constexpr std::uint64_t reader_bytes =
      192;  ///< in the maps here, with what malloc adds; also after the segment's end
  static constexpr std::size_t readers_free = 16;  ///< segments that a client reads for nothing
  /// A segment that ended while clients still map it. It stays charged until they don't.
  struct Ended {
    SegmentId segment;
    std::vector<ClientId> readers;
  };
  /// The segments that ended since the last call.
  [[nodiscard]] std::vector<Ended> take_ended();
  /// The client is going: what it has left in place is lost.
  void lose_left_by(ClientId client) noexcept;
  /// The client is gone. Its segments without objects end, the others with their last object. As they may be many, this
  /// ends some, and drop_more() the rest.
  void drop_client(ClientId client);
  [[nodiscard]] bool drops() const { return !ending_.empty() || !leaving_.empty(); }
  void drop_more();
  static constexpr std::size_t drops_of_turn = 128;  ///< about a tenth of a millisecond

  [[nodiscard]] SegmentPtr find(SegmentId segment) const;
  /// A segment that a client of `user` may read; Denied or Invalid otherwise.
  [[nodiscard]] muster::Result<SegmentPtr> readable(SegmentId segment, UserId user) const;
  [[nodiscard]] std::size_t size() const { return segments_.size(); }
  /// How many hold the segment beside its writer.
  [[nodiscard]] std::size_t holders_of(const SegmentPtr& segment) const;
  /// The sum over all segments.
  [[nodiscard]] std::uint64_t bytes_beside_objects() const { return bytes_beside_objects_; }
  /// Returns sparse segments in turn, again and again; null if there is none.
  [[nodiscard]] SegmentPtr next_sparse();
  [[nodiscard]] bool has_sparse() const { return !sparse_.empty(); }
  /// Grows when a segment becomes sparse, and when an object in a sparse one ends.
  [[nodiscard]] std::uint64_t sparse_changes() const { return sparse_changes_; }
  /// The client's own leased segment, if its state allows objects in it; Invalid or Denied otherwise.
  [[nodiscard]] muster::Result<SegmentPtr> owned(SegmentId segment, ClientId client) const;

 private:
  friend class NodeAudit;  ///< of the tests: adds up what is held
  friend class Resident;
  void note_if_sparse(Segment& segment);
  [[nodiscard]] muster::Result<SegmentPtr> book(Payer payer, const Wanted& wanted, Turn turn);
  [[nodiscard]] SegmentPtr insert(Payer payer, muster::Device device, std::uint64_t bytes, Charge memory);
  [[nodiscard]] muster::Result<SegmentPtr> leased_to(SegmentId segment, ClientId client) const;

  [[nodiscard]] SegmentId next_id();
  [[nodiscard]] muster::Result<void> create(Segment& segment, SegmentSpec::Writer writer,
                                            const muster::ipc::InPlaceMemory* in_place = nullptr);
  void ready(Segment& segment) const;
  void end_in_turn(Segment& segment);
  void end(Segment& segment);
  void drain(Segment& segment, const std::shared_ptr<Charge>& memory);
  void dispose(Segment& segment, std::shared_ptr<Charge> memory) const;
  [[nodiscard]] std::size_t end_first();
  void orphan(Segment& segment);

  Ledger& ledger_;
  Backings backings_;
  Hooks hooks_;
  std::uint32_t last_id_ = 0;
  std::unordered_map<SegmentId, Segment*> segments_;
  using Leased = boost::intrusive::list<Segment, boost::intrusive::base_hook<LeasedHook>,
                                        boost::intrusive::constant_time_size<false>>;
  /// Segments that nobody has any more. One object may have kept thousands, so they end in pieces.
  Leased ending_;
  std::size_t left_to_end_ = drops_of_turn;
  /// What remains of a segment that has ended while clients still map it.
  struct Draining {
    std::shared_ptr<Charge> memory;  ///< the segment's, shared with its disposal
    SegmentReaders readers;
    std::list<Over> over;        ///< one, if its owner is to be told; so to tell takes no memory
    bool is_open_there = false;  ///< the device has not closed it yet
  };
  void closed_there(SegmentId segment);
  /// Returns whether that was all, and there is something to tell.
  bool end_if_drained(std::unordered_map<SegmentId, Draining>::iterator draining);
  std::unordered_map<SegmentId, Draining> draining_;
  using Reads = boost::intrusive::list<SegmentReader, boost::intrusive::constant_time_size<false>>;
  /// What one client has, so that its end takes no walk over what others have.
  struct Client {
    Leased leased;
    Leased in_place;  ///< memory that it has left in place, also what it has handed over
    Reads reads;
    Reads reads_for_nothing;  ///< at most readers_free
  };
  /// Takes one thing away from a client that is gone. Returns how much work that was; 0 if nothing is left.
  std::size_t drop_one(ClientId id, Client& client);
  std::map<ClientId, Client> clients_;
  std::map<ClientId, Client> leaving_;  ///< those that are gone
  std::vector<Ended> ended_;
  std::list<Over> over_;
  /// What comes after the end of this does nothing.
  std::shared_ptr<SegmentTable*> self_ = std::make_shared<SegmentTable*>(this);
  boost::intrusive::list<Segment, boost::intrusive::base_hook<SparseHook>, boost::intrusive::constant_time_size<false>>
      sparse_;
  std::uint64_t sparse_changes_ = 0;
  std::uint64_t bytes_beside_objects_ = 0;
  std::unordered_map<SegmentId, SegmentPtr> kept_;  ///< segments whose writer lives
};

}  // namespace musterd
