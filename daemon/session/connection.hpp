// What the server keeps for one connection.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <muster/ipc/fd.hpp>

#include "base/blocking_pool.hpp"
#include "session/channel.hpp"
#include "session/effort.hpp"
#include "session/outside.hpp"
#include "session/rounds.hpp"

namespace musterd {

namespace asio = boost::asio;
using boost::system::error_code;
using Descriptor = asio::posix::stream_descriptor;
inline constexpr auto readable = Descriptor::wait_read;

/// Lends a descriptor that Asio owns to a function that needs an Fd.
struct Borrowed {
  explicit Borrowed(int number) : fd(number) {}
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { static_cast<void>(fd.release()); }
  muster::ipc::Fd fd;
};

[[nodiscard]] muster::Error out_of_descriptors();
/// Whether poll() reports these events. Asio recycles what it keeps per descriptor, so an event of a descriptor that
/// was just closed may wake a handler that waits for a new one.
[[nodiscard]] bool is(short events, Descriptor& descriptor);
/// From now on Asio watches and owns the descriptor. If the system has no room for that, this fails and leaves the
/// descriptor in `fd`.
[[nodiscard]] muster::Result<void> watch(Descriptor& descriptor, muster::ipc::Fd& fd);

struct Unsent {
  std::vector<std::byte> frame;
  std::vector<muster::ipc::Fd> fds;
  /// Includes what malloc adds.
  [[nodiscard]] std::size_t bytes() const { return sizeof(Unsent) + 32 + frame.size(); }
};

struct Connection;
using ConnectionPtr = std::shared_ptr<Connection>;

struct Connection {
  Connection(asio::io_context& io, ClientId id_)
      : id(id_), socket(io), process(io), doorbell(io), hello(io), again(io) {}
  ClientId id;
  Descriptor socket;
  Descriptor process;   ///< pidfd: a forked child may hold the socket open after the client's death
  Descriptor doorbell;  ///< a duplicate of the channel's
  asio::steady_timer hello;
  asio::steady_timer again;  ///< when to try to send what the system had no room for
  int refused = 0;           ///< how often in a row the system had no room
  bool said_hello = false;
  std::shared_ptr<Channel> channel;  ///< shared with the thread that seals it
  std::deque<Unsent> unsent;
  std::size_t unsent_bytes = 0;
  Charge replies;        ///< for replies that are unsent, or that the kernel has and the client has not read
  Charge backlog;        ///< for completions that its ring has no room for
  KernelEffort effort;   ///< of calls that send to it or receive from it
  bool cut_off = false;  ///< the connection is about to be told that it ends
  std::optional<muster::Error> because;  ///< why it is cut off; nothing if there was no memory
  bool given_up = false;                 ///< the node has been told to end it; nothing from it is read any more
  bool sending = false;
  bool paused = false;       ///< no frames are received until all unsent ones have gone out
  bool polled = false;       ///< its ring is polled
  bool has_frames = false;   ///< its socket is readable, and is read in the connection's turn
  bool has_answers = false;  ///< it has no ring, and `behind` has something that it asked for
  [[nodiscard]] bool takes_turns() const { return polled || has_frames || has_answers; }
  Rounds<ConnectionPtr>::TurnsPtr turns;
  bool dirty = false;
  bool ending = false;   ///< the client has ended; what it had published is still handled
  bool closing = false;  ///< the node has forgotten it; unsent frames still go out
  /// Work that comes after everything that the client had published by then, in order. At position 0 it is due at once.
  struct Behind {
    std::uint64_t position = 0;
    std::function<void()> then;
  };
  std::deque<Behind> behind;
  UserId user = 0;
  std::int32_t pid = 0;
  ConnectionCharges charges;  ///< set once the node has forgotten it
  muster::ipc::Fd left;       ///< its socket, which still has to be closed on the pool, as that may take long
};

/// The daemon's end of a life line. A client has the other end, and may have so many watchers on it that closing this
/// end takes long.
struct LifeLine {
  LifeLine(asio::io_context& io, BlockingPool::Source source) : socket(io), closing(source) {}
  Descriptor socket;
  BlockingPool::Source closing;
  muster::ipc::Fd left;  ///< set once the other end is closed; this end still has to be closed
};
using LifeLinePtr = std::shared_ptr<LifeLine>;

}  // namespace musterd
