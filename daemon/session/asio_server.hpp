// The server's one class, over several files: the loop and the end are in server.cpp, who comes in accepting.cpp, what
// comes from one client in connections.cpp, what the node wants done in effects.cpp.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <muster/ipc/fd.hpp>

#include "base/blocking_pool.hpp"
#include "base/cpu_time.hpp"
#include "memory/memfd_backing.hpp"
#include "memory/populator.hpp"
#include "session/channel.hpp"
#include "session/crowd.hpp"
#include "session/effort.hpp"
#include "session/endpoint.hpp"
#include "session/later.hpp"
#include "session/outside.hpp"
#include "session/rounds.hpp"
#include "session/server.hpp"
#include "session/slow_folds.hpp"

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

struct Unsent {
  std::vector<std::byte> frame;
  std::vector<muster::ipc::Fd> fds;
  /// With what malloc adds.
  [[nodiscard]] std::size_t bytes() const { return sizeof(Unsent) + 32 + frame.size(); }
};

struct Connection;
using ConnectionPtr = std::shared_ptr<Connection>;

struct Connection {
  Connection(asio::io_context& io, ClientId id_, int socket_fd)
      : id(id_), socket(io, socket_fd), process(io), doorbell(io), hello(io), again(io) {}
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
  Charge replies;        ///< what is unsent, and what the kernel has that is not read
  Charge backlog;        ///< completions for which its ring has no room
  KernelEffort effort;   ///< of calls that tell it something, or that take what it sends
  bool cut_off = false;  ///< it is about to be told that it ends
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
};

/// This end of one. The other end is a client's, who may have so many watch it that to close this one takes long.
struct LifeLine {
  LifeLine(asio::io_context& io, BlockingPool::Lane lane) : socket(io), closing(lane) {}
  Descriptor socket;
  BlockingPool::Lane closing;
};
using LifeLinePtr = std::shared_ptr<LifeLine>;

class AsioServer final : public Server, public Outside {
 public:
  AsioServer(ServerSettings settings, Endpoint endpoint);
  ~AsioServer() override;
  std::string run() override;

  // Outside
  void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) override;
  [[nodiscard]] muster::Result<void> welcome(ClientId client, std::span<const std::byte> frame) override;
  [[nodiscard]] SegmentTable::Sealing seal_rings(ClientId client) override;
  void greeted(ClientId client) override;
  void complete(ClientId client, muster::ipc::CompletionType type, std::span<const std::byte> body) override;
  void show_memory_wanted(bool wanted) override;
  void close(ClientId client, const std::string& why, ConnectionCharges charges) override;
  [[nodiscard]] bool after_ring(ClientId client, ClientId asks, std::function<void()> then) override;
  muster::Result<muster::ipc::Fd> watch_lifeline(ClientId client, ClientId heir) override;
  void run(Job job) override;
  [[nodiscard]] Duration run_inline(const Job& job) override;
  void run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) override;
  void dispose(UserId user, Remains remains, std::function<void()> then) override;
  [[nodiscard]] bool is_stopped(std::int32_t pid) override;
  void populate(const SegmentMemoryPtr& memory) override { populator_.populate(memory); }
  muster::ipc::Capability random_capability() override;
  void stop(std::string reason) override;

 private:
  // accepting.cpp
  void wait_for_connections();
  void accept_some();
  /// False if it will be called again by itself, when there are descriptors.
  [[nodiscard]] bool accept_waiting();
  void refuse_one();
  void wait_to_accept_again();
  void refuse(muster::ipc::Fd socket, BlockingPool::Lane lane, const muster::Error& why,
              std::function<void()> then = {});
  /// Descriptors may lie in a client's socket that take as long to close as it likes.
  void close_elsewhere(muster::ipc::Fd socket, BlockingPool::Lane lane, Charge descriptors,
                       std::function<void()> then = {});
  void adopt(muster::ipc::Fd socket);
  [[nodiscard]] ClientId next_client();
  [[nodiscard]] static BlockingPool::Lane lane_of(const Connection& connection, BlockingPool::Lane::Of of);
  // connections.cpp
  void wait_for_frames(const ConnectionPtr& connection);
  void wait_for_doorbell(const ConnectionPtr& connection);
  void wait_for_death(const ConnectionPtr& connection);
  void receive_some(const ConnectionPtr& connection, Slice& slice);
  void wait_for_lifeline(ClientId heir, const LifeLinePtr& line);
  void lifeline_ended(ClientId heir, LifeLine& line);
  void read_ring(const ConnectionPtr& connection, Slice& slice);
  void run_behind(const ConnectionPtr& connection, Slice& slice);
  void after_ring(const ConnectionPtr& connection, std::function<void()> then);
  void in_turn_of(ClientId client, std::function<void()> then);
  void receive(const ConnectionPtr& connection);
  void take_frame(const ConnectionPtr& connection, std::span<const std::byte> frame);
  void ended(const ConnectionPtr& connection, const std::string& as_seen);
  void drop(const ConnectionPtr& connection);
  void unmap_rings();
  void flush_socket(const ConnectionPtr& connection);
  static void forget_unsent(Connection& connection);
  [[nodiscard]] bool may_send_later(const ConnectionPtr& connection, const muster::Error& error);
  [[nodiscard]] ConnectionPtr find(ClientId client) const;
  // effects.cpp
  void open_rings(const ConnectionPtr& connection);
  void cut_off(const ConnectionPtr& connection, const muster::Error& error);
  [[nodiscard]] bool is_too_much(const ConnectionPtr& connection);
  [[nodiscard]] muster::Result<bool> send_packet(const ConnectionPtr& connection, std::span<const std::byte> frame,
                                                 std::span<const int> fds);
  void charge_replies(const ConnectionPtr& connection);
  void charge_backlog(const ConnectionPtr& connection);
  // server.cpp: the loop and the end
  bool take_turns();
  void take_posted(std::function<void()> function);  ///< from lanes
  bool run_posted();
  void flush_completions();
  void set_polled(const ConnectionPtr& connection);
  void set_dirty(const ConnectionPtr& connection);
  void set_takes_turns(const ConnectionPtr& connection, bool Connection::*why, bool is_so);
  void sleep();
  void take_events();
  void tick_if_due();
  void arm_idle_exit();
  void finish_stop();

  ServerSettings settings_;
  Endpoint endpoint_;
  asio::io_context io_{1};
  Descriptor listener_;
  asio::signal_set signals_;
  asio::steady_timer idle_;
  asio::steady_timer accept_again_;
  asio::steady_timer stop_deadline_;
  muster::ipc::Fd spare_;  ///< given up to refuse a connection politely when descriptors run out
  std::map<ClientId, ConnectionPtr> connections_;
  Crowd crowd_;                                                  ///< those
  Rounds<ConnectionPtr> rounds_{{Clock::now, thread_cpu_time}};  ///< who is polled or has frames
  EffortMeter effort_{{Clock::now, thread_cpu_time}};
  FoldWatch folds_{{Clock::now, thread_usage}};
  std::vector<ConnectionPtr> dirty_;
  std::vector<ConnectionPtr> left_;  ///< those that are gone, with their rings
  Later later_;                      ///< what waited for the rings of those that are gone
  std::map<ClientId, LifeLinePtr> lifelines_;
  std::uint32_t last_client_ = 0;
  std::vector<std::uint64_t> random_;
  TimePoint now_ = Clock::now();
  TimePoint next_events_;
  TimePoint next_tick_ = TimePoint::max();
  std::size_t jobs_ = 0;
  bool memory_wanted_ = false;
  bool stopping_ = false;
  bool done_ = false;
  std::string reason_;

  MemfdBacking backing_;
  BlockingPool blocking_;
  Populator populator_;
  Node node_;
  // What lanes have posted holds leases of the node's objects, so it goes first.
  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> has_posted_{false};
  std::atomic<bool> sleeping_{false};
  Engine engine_;
};

}  // namespace musterd
