// The arenas of a process: one for the host, one for pinned memory, and one for each GPU that the daemon has memory on.
// All share one lock.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include <muster/device.hpp>

#include "arena.hpp"

namespace muster::detail {

class Arenas {
 public:
  /// The first is the host's.
  explicit Arenas(std::vector<std::unique_ptr<Arena>> arenas) : arenas_(std::move(arenas)) {}

  [[nodiscard]] Arena& host() { return *arenas_.front(); }
  /// Null if the daemon has no memory there.
  [[nodiscard]] Arena* on(Device device);

  /// These regions, each of whatever device, now belong to the object. Invalid if an address is in no region in use.
  [[nodiscard]] Result<void> adopt(ipc::ObjectId object, std::span<const std::byte* const> addresses);
  void object_gone(ipc::ObjectId object);
  /// As Arena::released(), for the parts of the object on all devices.
  [[nodiscard]] bool released(ipc::ObjectId object);
  void still_held(ipc::ObjectId object);
  [[nodiscard]] bool has(ipc::ObjectId object) const;
  void trim();
  /// Segments that may be handed over, each with its arena.
  struct Shared {
    Arena* arena = nullptr;
    ipc::SegmentId segment;
  };
  [[nodiscard]] std::vector<Shared> share(ipc::ObjectId object);
  // For a fork. The caller holds the lock. These are memory of the host, pinned or not: see Arena.
  [[nodiscard]] std::vector<Stretch> unsealed() const;
  [[nodiscard]] std::vector<Stretch> writable() const;
  /// In a forked child.
  void disown();

 private:
  [[nodiscard]] Arena* owner_of(const std::byte* address);
  std::vector<std::unique_ptr<Arena>> arenas_;
};

}  // namespace muster::detail
