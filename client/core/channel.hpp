// The memory that this process shares with its daemon: a ring in each direction, and the bells for them.
#pragma once

#include <cstddef>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ring.hpp>

namespace muster::detail {

struct Channel {
  ipc::Mapping memory;
  ipc::Fd doorbell;  ///< wakes the daemon
  ipc::Fd notify;    ///< wakes this client's event loop

  [[nodiscard]] ipc::ChannelHeader& header() const { return *reinterpret_cast<ipc::ChannelHeader*>(memory.data()); }
  [[nodiscard]] std::byte* submissions() const { return memory.data() + ipc::channel_header_bytes; }
  [[nodiscard]] std::byte* completions() const { return submissions() + ipc::ring_bytes; }

  /// Call it after a record was written into the ring of submissions.
  void wake_daemon() const {
    if (header().daemon_polls.load(std::memory_order_seq_cst) == 0) ipc::signal(doorbell);
  }
  /// Whether other clients wait for memory of the store now.
  [[nodiscard]] bool memory_wanted() const { return header().memory_wanted.load(std::memory_order_relaxed) != 0; }

  /// In a forked child, which has not inherited the memory because of MADV_DONTFORK.
  void inherit() {
    memory.forget();
    doorbell.reset();
    notify.reset();
  }
};

}  // namespace muster::detail
