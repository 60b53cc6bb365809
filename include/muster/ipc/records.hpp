// The records that travel in the rings. Each has a plain struct, a writer that appends its packed body, and a reader
// that checks it. Variable parts follow the fixed part. Everything is little endian and 8-aligned.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/result.hpp>
#include <muster/types.hpp>

namespace muster::ipc {

/// What the seats of an op do together.
enum class Kind : std::uint8_t {
  barrier = 0,
  allreduce = 1,
  reduce = 2,
  scan = 3,
  broadcast = 4,
  allgather = 5,
  gather = 6,
  scatter = 7,
  reduce_scatter = 8,
  all_to_all = 9,
  send = 10,  ///< matches a recv of the same (source, destination, tag), in order
  recv = 11,
  split = 12,   ///< makes new groups; root carries the color (negative: none), tag the key
  reform = 13,  ///< live seats agree on a new epoch after a loss
};
inline constexpr int world_size_max = 1024;  ///< ranks of one group
inline constexpr std::size_t kind_count = 14;
inline constexpr std::size_t layout_count = 3;
inline constexpr std::uint32_t requests_max = 256;    ///< unanswered requests of one client on the socket
inline constexpr std::size_t key_bytes_max = 4096;    ///< of Contribute::key
inline constexpr std::size_t fault_bytes_max = 1024;  ///< of the message of Contribute::fault; the rest is cut off
inline constexpr std::size_t error_ranks_max = 4096;  ///< of an Error in a record; the rest is cut off
[[nodiscard]] std::string_view name(Kind kind);

enum class SubmissionType : std::uint16_t {
  seal = 1,
  contribute = 2,
  release = 3,
  combine = 4,
  pin = 5,
  unmapped = 6,
  hand_over = 7,
};
enum class CompletionType : std::uint16_t {
  done = 1,
  failed = 2,
  object_gone = 3,
  seal_failed = 4,
  group_changed = 5,
  segment_gone = 6,
  memory_wanted = 7,
  in_place_over = 8,
};

using ObjectIds = SmallVector<ObjectId, 2>;

/// How the parts that a seat receives are put together.
enum class Layout : std::uint8_t {
  parts = 0,   ///< as they are: nothing is copied
  stack = 1,   ///< one array with a new axis 0 (allgather, gather)
  concat = 2,  ///< one array along axis 0 (all_to_all of a split array)
};

/// Client: these leased regions are now an object. If `parent` is set, they are parts of that object instead.
struct Seal {
  ObjectId object;
  Capability capability;
  ObjectId parent;
  std::uint64_t copied_bytes = 0;  ///< how many of its bytes were copied in rather than produced in place
  Manifest manifest;
};

/// Client: one rank's input to one op. objects: 1 for most kinds; world_size for scatter (root), reduce_scatter,
/// all_to_all; 0 if the rank gives nothing.
struct Contribute {
  WorkId work;
  SeatId seat;
  std::uint32_t epoch = 0;
  Kind kind = Kind::barrier;
  ReduceOp op = ReduceOp::sum;
  Layout layout = Layout::parts;
  std::int32_t root = 0;        ///< root; peer's rank for send and recv; color for split
  std::int64_t tag = 0;         ///< tag of send and recv; key for split
  std::int64_t timeout_ns = 0;  ///< the op's deadline from now
  ObjectIds objects;
  std::string key;  ///< if not empty, the op is matched by it, else by the seat's order of calls
  /// Set if the rank called but has no input: the reason, whose code and message travel. The call still takes its place
  /// in the order, so that the rank's next call does not meet the others' current one.
  std::shared_ptr<const Error> fault;
};

/// Client: an op over objects that this process holds; complete by construction.
struct Combine {
  WorkId work;
  Kind kind = Kind::allreduce;
  ReduceOp op = ReduceOp::sum;
  Layout layout = Layout::parts;
  std::int32_t root = 0;
  std::int64_t timeout_ns = 0;
  std::uint32_t ranks = 0;
  ObjectIds objects;  ///< the same number for each rank, rank by rank
};

/// Client: gives up holds.
struct Release {
  static constexpr std::size_t objects_max = 1024;  ///< these keep the daemon busy for about half a millisecond
  ObjectIds objects;
};

/// Client: the object was pickled; keep it for the pickle lease.
struct Pin {
  ObjectId object;
};

/// Client: this process has unmapped a segment of another client or of results.
struct Unmapped {
  SegmentId segment;
};

/// Client: this process writes no more into this segment of its own, and has unmapped it. The segment ends with the
/// last object in it, and the client is not told.
struct HandOver {
  SegmentId segment;
};

/// One object of an outcome, with one hold for the client that gets it.
struct Item {
  ObjectId object;
  Capability capability;
  bool described = true;  ///< false: the manifest is too large for the ring; ask with Describe
  Manifest manifest;
};

/// Daemon: the op is over and this is what the seat gets.
struct Done {
  WorkId work;
  std::uint32_t contributors = 0;
  std::uint32_t epoch = 0;         ///< after split and reform: that of the group the client is now in
  SeatId seat;                     ///< after split: the seat in the new group, 0 if none
  std::int32_t rank = 0;           ///< after split
  std::int32_t world_size = 0;     ///< after split
  std::string name;                ///< after split: the new group's
  std::vector<std::int32_t> live;  ///< after split and reform: live ranks
  SmallVector<Item, 1> items;
};

/// Daemon: the op is over with this error.
struct Failed {
  WorkId work;
  Error error{Code::failed, {}};
};

/// Daemon: an object that this client sealed is gone; its regions may be used again.
struct ObjectGone {
  ObjectId object;
};

/// Daemon: a segment that this client has read has ended. Its memory stays charged until all readers have answered with
/// Unmapped or are gone.
struct SegmentGone {
  SegmentId segment;
};

/// Daemon: no other process has this memory open any more, which this client has left in place. It may be freed.
struct InPlaceOver {
  SegmentId segment;
};

/// Daemon: requests wait for memory, and memory that this client keeps free would help.
struct MemoryWanted {
  std::uint64_t waiting = 0;  ///< requests that wait
};

struct SealFailed {
  ObjectId object;
  Error error{Code::failed, {}};
};

/// Daemon: seats of a group came or went.
struct GroupChanged {
  SeatId seat;
  std::uint32_t epoch = 0;
  std::vector<std::int32_t> live;
  std::vector<std::int32_t> lost;
};

/// Each appends the record's body to `out`.
void write(const Seal&, std::vector<std::byte>& out);
void write(const Contribute&, std::vector<std::byte>& out);
void write(const Combine&, std::vector<std::byte>& out);
void write(const Release&, std::vector<std::byte>& out);
void write(const Pin&, std::vector<std::byte>& out);
void write(const Unmapped&, std::vector<std::byte>& out);
void write(const HandOver&, std::vector<std::byte>& out);
void write(const Done&, std::vector<std::byte>& out);
void write(const Failed&, std::vector<std::byte>& out);
/// Appends a Done whose items the caller has in its own form. It must add as many items as it announced.
class DoneWriter {
 public:
  DoneWriter(const Done& without_items, std::size_t items, std::vector<std::byte>& out);
  /// `manifest`: null if it is too large for the ring.
  void item(ObjectId object, const Capability& capability, const Manifest* manifest);

 private:
  std::vector<std::byte>& out_;
};
/// Writes the number of this work into a written Done, as many works get the same one.
void address_done(std::span<std::byte> done, WorkId work);
void write(const ObjectGone&, std::vector<std::byte>& out);
void write(const SealFailed&, std::vector<std::byte>& out);
void write(const GroupChanged&, std::vector<std::byte>& out);
void write(const SegmentGone&, std::vector<std::byte>& out);
void write(const InPlaceOver&, std::vector<std::byte>& out);
void write(const MemoryWanted&, std::vector<std::byte>& out);

/// Each checks and reads one body. Invalid says what is wrong with it.
[[nodiscard]] Result<Seal> read_seal(std::span<const std::byte> body);
[[nodiscard]] Result<Contribute> read_contribute(std::span<const std::byte> body);
[[nodiscard]] Result<Combine> read_combine(std::span<const std::byte> body);
[[nodiscard]] Result<Release> read_release(std::span<const std::byte> body);
[[nodiscard]] Result<Pin> read_pin(std::span<const std::byte> body);
[[nodiscard]] Result<Unmapped> read_unmapped(std::span<const std::byte> body);
[[nodiscard]] Result<HandOver> read_hand_over(std::span<const std::byte> body);
[[nodiscard]] Result<Done> read_done(std::span<const std::byte> body);
[[nodiscard]] Result<Failed> read_failed(std::span<const std::byte> body);
[[nodiscard]] Result<ObjectGone> read_object_gone(std::span<const std::byte> body);
[[nodiscard]] Result<SealFailed> read_seal_failed(std::span<const std::byte> body);
[[nodiscard]] Result<GroupChanged> read_group_changed(std::span<const std::byte> body);
[[nodiscard]] Result<SegmentGone> read_segment_gone(std::span<const std::byte> body);
[[nodiscard]] Result<InPlaceOver> read_in_place_over(std::span<const std::byte> body);
[[nodiscard]] Result<MemoryWanted> read_memory_wanted(std::span<const std::byte> body);

}  // namespace muster::ipc
