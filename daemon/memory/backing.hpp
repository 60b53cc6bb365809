// The seam between segments and what they are made of. SegmentTable keeps policy: owners, states, readers, charges. A
// SegmentBacking makes the memory, and does every system call that it takes. Memfds are behind it in the daemon
// (memfd_backing.hpp), plain heap memory in tests; memory of a GPU fits: it has a descriptor and no host address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

namespace musterd {

using muster::ipc::SegmentId;

/// The memory of one segment. Each function says where it is called and whether it may block. No two of them are called
/// at a time, but for populate() and those that never block.
class SegmentMemory {
 public:
  SegmentMemory() = default;
  SegmentMemory(const SegmentMemory&) = delete;
  SegmentMemory& operator=(const SegmentMemory&) = delete;
  /// Gives everything back: mapping, descriptor, pages. May block for as long as it takes to unmap all of it, so
  /// SegmentTable lets Hooks::dispose destroy it.
  virtual ~SegmentMemory() = default;

  /// Control thread, never blocks: what another process is sent to map the memory. Stays the memory's own; -1 if only
  /// this process can reach it, or after close_descriptor().
  [[nodiscard]] virtual int descriptor() const noexcept = 0;
  /// Any thread, never blocks: the memory at the daemon's own addresses, all of it. Writable for what the daemon
  /// writes, from create() on; readable for what a client writes, once seal() has returned. Empty before that, and for
  /// ever where the host has no address of it.
  [[nodiscard]] virtual std::span<std::byte> host() const noexcept = 0;
  /// Control thread, only while host() is not empty; then it never blocks. Nobody will be sent the descriptor any more.
  virtual void close_descriptor() noexcept = 0;

  /// Blocking pool: a client can lock what it has a descriptor of for as long as it likes. The one writer has mapped
  /// the memory: from here on nobody can resize it, map it for writing, or take pages of it away. A hard one may still
  /// be sealed hard.
  /// Invalid if the writer has resized it, or has a lease on its file; QuotaExceeded at a limit of this process; Failed
  /// for what else the system refuses, as when the writer has added seals of its own. It may be tried again.
  [[nodiscard]] virtual muster::Result<void> seal() = 0;
  /// Blocking pool. After seal(), of a hard one whose writer has unmapped it: nobody can write it ever again. Invalid
  /// while somebody still can.
  [[nodiscard]] virtual muster::Result<void> seal_hard() = 0;
  /// The populator's thread, may block for about as long as page faults take. Makes these bytes of host() present. They
  /// stay what they are. False if that can't be done, and so need not be tried for the rest.
  [[nodiscard]] virtual bool populate(std::uint64_t offset, std::uint64_t bytes) noexcept = 0;
};

/// Shared, so that a thread that populates or copies never touches what was given back.
using SegmentMemoryPtr = std::shared_ptr<SegmentMemory>;

/// What a segment is to be.
struct SegmentSpec {
  enum class Writer : std::uint8_t {
    client,  ///< which is sent the descriptor; seal() follows when it has mapped the memory
    daemon,  ///< mapped and sealed when create() returns
  };
  SegmentId id;  ///< for messages
  std::uint64_t bytes = 0;
  Writer writer = Writer::client;
  bool hard = false;  ///< seal_hard() follows
};

/// Makes memory for segments. Must outlive whoever calls it; what it made may outlive it.
class SegmentBacking {
 public:
  struct Limits {
    std::uint64_t granularity_bytes = 0;  ///< segments have a multiple of it
    std::uint64_t bytes_max = 0;          ///< of one segment
  };

  SegmentBacking() = default;
  SegmentBacking(const SegmentBacking&) = delete;
  SegmentBacking& operator=(const SegmentBacking&) = delete;
  virtual ~SegmentBacking() = default;

  /// Any thread, never blocks; the same each time.
  [[nodiscard]] virtual Limits limits() const noexcept = 0;
  /// Control thread, never blocks: takes some tens of microseconds, and no page of it is touched. All bytes are zero.
  /// QuotaExceeded at a limit of this process, Failed for what else the system refuses; nothing is left of it then.
  [[nodiscard]] virtual muster::Result<SegmentMemoryPtr> create(const SegmentSpec& spec) = 0;
};

/// What a node makes segments of: one backing for the host's memory, and one for each other device that it has.
class Backings {
 public:
  /// Of a node that has nothing but the host. Not explicit: that is the usual case.
  Backings(SegmentBacking& host) { add(muster::Device::cpu(), host); }  // NOLINT(google-explicit-constructor)

  void add(muster::Device device, SegmentBacking& backing) {
    devices_.push_back(device);
    all_.push_back({&backing, backing.limits()});
  }
  struct OfDevice {
    SegmentBacking* backing = nullptr;
    SegmentBacking::Limits limits;
  };
  /// Null where the node has no memory on it.
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

/// As messages name it.
[[nodiscard]] inline std::string label(SegmentId segment) { return "segment " + std::to_string(segment.value); }

}  // namespace musterd
