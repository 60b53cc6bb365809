// Remembers why objects ended, for the last ends. All of its memory is there from the start: ends are as frequent as
// ops, and steady state must not touch new pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <muster/ipc/ids.hpp>

#include "memory/ledger.hpp"

namespace musterd {

class Tombstones {
 public:
  /// `secret`: as in SecretHash. The hash is a different one, as ids of one maker should lie side by side.
  explicit Tombstones(std::size_t kept, std::uint64_t secret = golden);

  struct End {
    const char* reason = nullptr;
    UserId user = 0;  ///< whose object it was
  };
  /// Remembers an end, and forgets the oldest if there are too many. An id that is known already keeps its age.
  void add(muster::ipc::ObjectId id, End end);
  /// Null if the end is not remembered.
  [[nodiscard]] const End* find(muster::ipc::ObjectId id) const;

 private:
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;
  struct Slot {
    muster::ipc::ObjectId id;  ///< 0: free
    End end;
  };
  [[nodiscard]] std::size_t home(muster::ipc::ObjectId id) const;
  [[nodiscard]] std::size_t next(std::size_t slot) const { return (slot + 1) & (slots_.size() - 1); }
  /// The slot of the id, or the free slot where it would go.
  [[nodiscard]] std::size_t place(muster::ipc::ObjectId id) const;
  void erase(muster::ipc::ObjectId id);

  std::uint64_t secret_;
  std::vector<Slot> slots_;                   ///< open addressing with linear probing, at most half full
  std::vector<muster::ipc::ObjectId> order_;  ///< a ring; 0: not used yet
  std::size_t oldest_ = 0;
};

}  // namespace musterd
