// Memory of the store that other libraries have on GPUs, from when they ask for it until they give it back. That may be
// on any thread, under any lock of theirs, and long after the call that asked for it. So nothing here takes the GIL,
// and each wait for the daemon has a deadline.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "call_share.hpp"
#include "memory/arena.hpp"
#include "module.hpp"

namespace muster::python {

class GpuMemory {
 public:
  /// It is never destroyed: libraries give memory back while the process ends, too.
  [[nodiscard]] static GpuMemory& instance();

  struct Wanted {
    const ConnectionPtr& connection;
    detail::Arena& arena;  ///< of the connection
    std::uint64_t bytes = 0;
    std::uint64_t call = 0;   ///< the decorated call that asks
    std::uint64_t limit = 0;  ///< how much libraries may have of the arena's memory at once
  };
  struct Taken {
    void* address = nullptr;  ///< null: the store can't give it now
    NotStored why = NotStored::full;
  };
  [[nodiscard]] Taken take(const Wanted& wanted) noexcept;
  /// Waits for the GPU, as cudaFree() does. False if the address is none that was taken.
  bool give_back(void* address) noexcept;

 private:
  struct Entry {
    ConnectionPtr connection;
    detail::Arena* arena = nullptr;
    std::uint64_t bytes = 0;
  };
  class Reservation;
  GpuMemory();
  void forget_bytes(const detail::Arena* arena, std::uint64_t bytes);
  [[nodiscard]] bool is_forked() const;

  pid_t process_;
  std::mutex mutex_;                                               ///< guards what follows
  std::unordered_map<void*, Entry> taken_;                         ///< by address
  std::unordered_map<const detail::Arena*, std::uint64_t> bytes_;  ///< that libraries have of each arena
};

}  // namespace muster::python
