// What the node can do to the world. The server does it for real; tests and fuzzers record it.
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

  /// Sends one frame with descriptors (which the callee duplicates if it can't send at once).
  virtual void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) = 0;
  /// Makes the client's rings and eventfds and sends them with the Welcome frame. Fails if the system has none left.
  [[nodiscard]] virtual muster::Result<void> welcome(ClientId client, std::span<const std::byte> frame) = 0;
  /// The client has mapped its rings, which happens once: what is to be done so that they can be used, outside of the
  /// control thread, as for segments. Before its `finish` nobody touches them.
  [[nodiscard]] virtual SegmentTable::Sealing seal_rings(ClientId client) = 0;
  /// The client has said Hello; its Welcome may take a while.
  virtual void greeted(ClientId client) = 0;
  /// Writes one record into the client's completion ring, or keeps it until there is room.
  virtual void complete(ClientId client, muster::ipc::CompletionType type, std::span<const std::byte> body) = 0;
  /// Shows every client, those to come included, whether somebody waits for memory.
  virtual void show_memory_wanted(bool wanted) = 0;
  /// Ends the connection after what was sent; `why` is for the log. The node has forgotten the client already; the
  /// charges are held until its descriptors are closed and its rings unmapped.
  virtual void close(ClientId client, const std::string& why, ConnectionCharges charges) = 0;
  /// True if all has been handled that the client has published by now. Else `then` is called when it has, in a turn of
  /// the client that asks, also if the first one is gone; not at all if the one that asks is.
  [[nodiscard]] virtual bool after_ring(ClientId client, ClientId asks, std::function<void()> then) = 0;
  /// Makes a life line for a client that forks and returns its other end; tells the node with lifeline_closed() when
  /// nobody has that any more, and this end is closed, too.
  [[nodiscard]] virtual muster::Result<muster::ipc::Fd> watch_lifeline(ClientId client, ClientId heir) = 0;
  /// Who decides what becomes of ops whose ranks agree.
  [[nodiscard]] virtual Decider& decider() = 0;
  /// What does the work of ops on a device. Null if nothing here does.
  [[nodiscard]] virtual Lane* lane(muster::Device device) = 0;
  /// Runs what may take long, for the client, one thing of its process after another; then `then`, on the control
  /// thread. Client 0: of the daemon itself.
  virtual void run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) = 0;
  /// Destroys what is left of a segment or an object, which takes a while; then `then`, on the control thread.
  virtual void dispose(UserId user, Remains remains, std::function<void()> then) = 0;
  /// Touches the pages of a new segment in the background.
  virtual void populate(const SegmentMemoryPtr& memory) = 0;
  [[nodiscard]] virtual muster::ipc::Capability random_capability() = 0;
  /// Whether the process is stopped; takes some ten microseconds.
  [[nodiscard]] virtual bool is_stopped(std::int32_t pid) = 0;
  /// Begins the orderly end of the daemon.
  virtual void stop(std::string reason) = 0;
};

}  // namespace musterd
