// What the server keeps of one connection.
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

/// A descriptor that Asio owns, lent to a function that wants an Fd.
struct Borrowed {
  explicit Borrowed(int number) : fd(number) {}
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { static_cast<void>(fd.release()); }
  muster::ipc::Fd fd;
};

[[nodiscard]] muster::Error out_of_descriptors();
/// Whether poll() says so of it. Asio recycles what it keeps per descriptor: an event of a descriptor that was closed a
/// moment ago may wake those that wait for a new one.
[[nodiscard]] bool is(short events, Descriptor& descriptor);
/// From now on Asio watches it, and owns it. Fails, and leaves it where it is, if the system has no room for that.
[[nodiscard]] muster::Result<void> watch(Descriptor& descriptor, muster::ipc::Fd& fd);

struct Unsent {
  std::vector<std::byte> frame;
  std::vector<muster::ipc::Fd> fds;
  /// With what malloc adds.
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
  int refused = 0;           ///< how often in a row it had none
  bool said_hello = false;
  std::shared_ptr<Channel> channel;  ///< shared with the thread that seals it
  std::deque<Unsent> unsent;
  std::size_t unsent_bytes = 0;
  Charge replies;                        ///< what is unsent, and what the kernel has that is not read
  Charge backlog;                        ///< completions for which its ring has no room
  KernelEffort effort;                   ///< of calls that tell it something, or that take what it sends
  bool cut_off = false;                  ///< it is about to be told that it ends
  std::optional<muster::Error> because;  ///< why; nothing if there was no memory, perhaps not even for saying so
  bool given_up = false;  ///< the node has been told to end it, as soon as it can: nothing of it is read any more
  bool sending = false;
  bool paused = false;       ///< frames are not received until what is unsent has gone out
  bool polled = false;       ///< its ring is
  bool has_frames = false;   ///< its socket is readable, and is read when it is its turn
  bool has_answers = false;  ///< it has no ring, and something behind that it asked for
  [[nodiscard]] bool takes_turns() const { return polled || has_frames || has_answers; }
  Rounds<ConnectionPtr>::LanePtr lane;
  bool dirty = false;
  bool ending = false;   ///< it has ended; what it had published is still handled
  bool closing = false;  ///< the node has forgotten it; what is unsent still goes out
  /// What comes after all that the client had published when it came, in this order; at 0, at once.
  struct Behind {
    std::uint64_t position = 0;
    std::function<void()> then;
  };
  std::deque<Behind> behind;
  UserId user = 0;
  std::int32_t pid = 0;
  ConnectionCharges charges;  ///< once the node has forgotten it
  muster::ipc::Fd left;       ///< its socket, which is still to be closed where that may take long
};

/// This end of one. The other end is a client's, who may have so many watch it that to close this one takes long.
struct LifeLine {
  LifeLine(asio::io_context& io, BlockingPool::Lane lane) : socket(io), closing(lane) {}
  Descriptor socket;
  BlockingPool::Lane closing;
  muster::ipc::Fd left;  ///< once the other end is closed: this one is still to be
};
using LifeLinePtr = std::shared_ptr<LifeLine>;

}  // namespace musterd
