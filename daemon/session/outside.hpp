// What the node can do to the outside world. The server really does it; tests and fuzzers record it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>

#include "cluster/decider.hpp"
#include "collective/lane.hpp"
#include "memory/segment_table.hpp"
#include "session/connection_charges.hpp"

namespace musterd {

using muster::ipc::ClientId;

class Outside {
 public:
  virtual ~Outside() = default;

  /// Sends one frame with descriptors. If it can't send at once, it duplicates the descriptors.
  virtual void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) = 0;
  /// Makes the client's rings and eventfds, and sends them with the Welcome frame. Fails if the system has no memory or
  /// descriptors left.
  [[nodiscard]] virtual muster::Result<void> welcome(ClientId client, std::span<const std::byte> frame) = 0;
  /// Called once, when the client has mapped its rings. Returns the work that makes them usable, which runs outside of
  /// the control thread, as for segments. Nobody touches the rings before its `finish`.
  [[nodiscard]] virtual SegmentTable::Sealing seal_rings(ClientId client) = 0;
  /// The client has said Hello; its Welcome may take a while.
  virtual void greeted(ClientId client) = 0;
  /// Writes one record into the client's completion ring, or keeps it until there is room.
  virtual void complete(ClientId client, muster::ipc::CompletionType type, std::span<const std::byte> body) = 0;
  /// Shows every client, later ones too, whether requests wait for memory.
  virtual void show_memory_wanted(bool wanted) = 0;
  /// Ends the connection after sending what was queued; `why` is for the log. The node has forgotten the client
  /// already. The charges are held until its descriptors are closed and its rings unmapped.
  virtual void close(ClientId client, const std::string& why, ConnectionCharges charges) = 0;
  /// True if everything that the client has published by now has been handled. Otherwise `then` is called once it has
  /// been, in a turn of the client that asks. It is called even if the first client is gone, but not if the one that
  /// asks is.
  [[nodiscard]] virtual bool after_ring(ClientId client, ClientId asks, std::function<void()> then) = 0;
  /// Makes a life line for a client that forks, and returns its other end. When no process has that end any more and
  /// the daemon's end is closed, the node is told by lifeline_closed().
  [[nodiscard]] virtual muster::Result<muster::ipc::Fd> watch_lifeline(ClientId client, ClientId heir) = 0;
  /// Decides what becomes of ops whose ranks agree.
  [[nodiscard]] virtual Decider& decider() = 0;
  /// Does the work of ops on these devices together, which are in rising order. Null if nothing works there.
  [[nodiscard]] virtual Lane* lane(std::span<const muster::Device> devices) = 0;
  /// Runs work that may take long for a client, and then `then` on the control thread. The works of one process run one
  /// after the other. Client 0 is the daemon itself.
  virtual void run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) = 0;
  /// Destroys what is left of a segment or an object, which takes a while, and then runs `then` on the control thread.
  virtual void dispose(UserId user, Remains remains, std::function<void()> then) = 0;
  /// Touches the pages of a new segment in the background.
  virtual void populate(const SegmentMemoryPtr& memory) = 0;
  [[nodiscard]] virtual muster::ipc::Capability random_capability() = 0;
  /// Whether the process is stopped. Takes some ten microseconds.
  [[nodiscard]] virtual bool is_stopped(std::int32_t pid) = 0;
  /// Begins the orderly end of the daemon.
  virtual void stop(std::string reason) = 0;
};

}  // namespace musterd
