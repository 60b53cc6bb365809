// The seam between segments and what they are made of. SegmentTable keeps policy: owners, states, readers, charges. A
// SegmentBacking makes the memory, and does all system calls for it. The daemon's backing makes memfds
// (memfd_backing.hpp), that of a GPU memory with a descriptor and no host address (gpu/control/gpu.hpp), that of tests
// plain heap memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/in_place.hpp>
#include <muster/result.hpp>

#include "memory/ledger.hpp"

namespace musterd {

using muster::ipc::SegmentId;

/// The memory of one segment. Each function says where it is called and whether it may block. Only populate() and
/// functions that never block are called while another one runs.
class SegmentMemory {
 public:
  SegmentMemory() = default;
  SegmentMemory(const SegmentMemory&) = delete;
  SegmentMemory& operator=(const SegmentMemory&) = delete;
  /// Gives everything back: mapping, descriptor, pages. May block for as long as it takes to unmap all of it, so
  /// SegmentTable lets Hooks::dispose destroy it.
  virtual ~SegmentMemory() = default;

  /// Control thread, never blocks: the descriptor that another process is sent to map the memory. The memory keeps it.
  /// -1 if only this process can reach the memory, while it is being made, or after close_descriptor().
  [[nodiscard]] virtual int descriptor() const noexcept = 0;
  /// Control thread, never blocks: whether the memory is there. An error if there is none and never will be. If it is
  /// still being made, `then` is called once it is known, on the control thread and never from within another function
  /// of the memory. It is not called if the memory ends before that.
  [[nodiscard]] virtual muster::Result<bool> when_made(std::function<void(muster::Result<void>)> /*then*/) {
    return true;
  }
  /// Control thread, never blocks: whether when_made() would return an error, or the owner of what was left in place
  /// has gone.
  [[nodiscard]] virtual bool is_lost() const noexcept { return false; }
  /// Any thread, never blocks: by what other processes open memory that was left in place; null for all other memory.
  [[nodiscard]] virtual const muster::ipc::InPlaceMemory* in_place() const noexcept { return nullptr; }
  /// Control thread, never blocks: the owner of what was left in place has gone. Nobody can rely on the bytes any more.
  virtual void lose_owner() noexcept {}
  /// Control thread, never blocks, and only for what was left in place: `then` is called on the control thread once the
  /// memory has ended and the device has closed it, never from within another function of the memory.
  virtual void when_closed(std::function<void()> /*then*/) {}
  /// Any thread, never blocks: all of the memory, at the daemon's own addresses. Where the daemon is the writer, it is
  /// writable from create() on. Where a client is, it is readable once seal() has returned, and empty before. Always
  /// empty for memory without an address on the host.
  [[nodiscard]] virtual std::span<std::byte> host() const noexcept = 0;
  /// Control thread, only while host() is not empty, so that it never blocks. From now on nobody is sent the
  /// descriptor.
  virtual void close_descriptor() noexcept = 0;

  /// Blocking pool, as a client can lock a file that it has a descriptor of for as long as it likes. Called when the
  /// one writer has mapped the memory. From here on nobody can resize it, map it for writing, or take pages of it away.
  /// Memory of a hard lease can still be sealed hard. Invalid if the writer has resized it, or has a lease on its file.
  /// QuotaExceeded at a limit of this process. Failed for other refusals of the system, as when the writer has added
  /// seals of its own. It may be tried again.
  [[nodiscard]] virtual muster::Result<void> seal() = 0;
  /// Blocking pool. Called after seal(), when the writer of a hard lease has unmapped it. From here on nobody can write
  /// it ever again. Invalid while somebody still can.
  [[nodiscard]] virtual muster::Result<void> seal_hard() = 0;
  /// The populator's thread; may block for about as long as page faults take. Makes the pages of these bytes of host()
  /// present, and leaves the bytes as they are. False if that can't be done; then it need not be tried for the rest.
  [[nodiscard]] virtual bool populate(std::uint64_t offset, std::uint64_t bytes) noexcept = 0;
};

/// Shared, so that a thread that populates or copies never touches memory that was given back.
using SegmentMemoryPtr = std::shared_ptr<SegmentMemory>;

/// Describes a segment that is to be made.
struct SegmentSpec {
  enum class Writer : std::uint8_t {
    client,  ///< a client, which is sent the descriptor; seal() follows when it has mapped the memory
    daemon,  ///< the daemon; the memory is mapped and sealed when create() returns
  };
  SegmentId id;  ///< for messages
  std::uint64_t bytes = 0;
  Writer writer = Writer::client;
  bool hard = false;  ///< seal_hard() follows
  UserId user = 0;    ///< who pays
  /// Not made, but left where its owner has allocated it; null: made. A backing that does not do that returns Invalid.
  const muster::ipc::InPlaceMemory* in_place = nullptr;
};

/// Makes memory for segments. It must outlive its callers; the memory that it made may outlive it.
class SegmentBacking {
 public:
  struct Limits {
    std::uint64_t granularity_bytes = 0;  ///< the size of a segment is a multiple of it
    std::uint64_t bytes_max = 0;          ///< of one segment
  };

  SegmentBacking() = default;
  SegmentBacking(const SegmentBacking&) = delete;
  SegmentBacking& operator=(const SegmentBacking&) = delete;
  virtual ~SegmentBacking() = default;

  /// Any thread, never blocks; always returns the same.
  [[nodiscard]] virtual Limits limits() const noexcept = 0;
  /// Control thread, never blocks: takes some tens of microseconds, and touches no page of the memory. The memory may
  /// be there only later: see SegmentMemory::when_made(). All bytes are zero. QuotaExceeded at a limit of this process,
  /// Failed for other refusals of the system; nothing is left behind then.
  [[nodiscard]] virtual muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) = 0;
  /// Control thread, never blocks: memory that work there takes beside segments, and that nobody pays for.
  [[nodiscard]] virtual std::uint64_t work_bytes() const noexcept { return 0; }
};

/// What a node makes segments of: one backing for the host's memory, and one for each other device that it has.
class Backings {
 public:
  /// For a node that has the host's memory only. Not explicit, as this is the usual case.
  Backings(SegmentBacking& host) { add(muster::Device::cpu(), host); }  // NOLINT(google-explicit-constructor)

  void add(muster::Device device, SegmentBacking& backing) {
    devices_.push_back(device);
    all_.push_back({&backing, backing.limits()});
  }
  struct OfDevice {
    SegmentBacking* backing = nullptr;
    SegmentBacking::Limits limits;
  };
  /// Null where the node has no memory on the device.
  [[nodiscard]] const OfDevice* find(muster::Device device) const {
    for (std::size_t i = 0; i < devices_.size(); ++i)
      if (devices_[i] == device) return &all_[i];
    return nullptr;
  }
  [[nodiscard]] std::span<const muster::Device> devices() const { return devices_; }

 private:
  std::vector<muster::Device> devices_;
  std::vector<OfDevice> all_;
};

/// The segment's name in messages.
[[nodiscard]] inline std::string label(SegmentId segment) { return "segment " + std::to_string(segment.value); }

}  // namespace musterd
