// The server's one class, in several files. server.cpp has the loop and the end, accepting.cpp new connections,
// connections.cpp what comes from one client, and effects.cpp what the node asks for. Any allocation may find no
// memory. If that happens in work for one connection, this connection ends. Work that concerns no single connection is
// tried again after a pause. It is one class, as each part touches the connections, whose turn it is and the node, and
// a failure anywhere must end exactly one connection.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <muster/ipc/fd.hpp>

#include "base/blocking_pool.hpp"
#include "base/cpu_time.hpp"
#include "collective/host_lane.hpp"
#include "gpu/process/gpus.hpp"
#include "memory/memfd_backing.hpp"
#include "memory/populator.hpp"
#include "session/connection.hpp"
#include "session/connection_shares.hpp"
#include "session/effort.hpp"
#include "session/endpoint.hpp"
#include "session/later.hpp"
#include "session/outside.hpp"
#include "session/retry.hpp"
#include "session/rounds.hpp"
#include "session/server.hpp"

namespace musterd {

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
  [[nodiscard]] Decider& decider() override { return decider_; }
  [[nodiscard]] Lane* lane(std::span<const muster::Device> devices) override {
    return devices.front().is_host() ? static_cast<Lane*>(&lane_) : gpus_.lane(devices);
  }
  void run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) override;
  void dispose(UserId user, Remains remains, std::function<void()> then) override;
  [[nodiscard]] bool is_stopped(std::int32_t pid) override;
  void populate(const SegmentMemoryPtr& memory) override { populator_.populate(memory); }
  muster::ipc::Capability random_capability() override;
  void stop(std::string reason) noexcept override;

 private:
  // accepting.cpp
  void accept_some() noexcept;
  void wait_for_connections();
  /// False if it has to be called again later, when there are descriptors.
  [[nodiscard]] bool accept_waiting();
  void refuse_one();
  void refuse(muster::ipc::Fd& socket, BlockingPool::Source source, const muster::Error& why,
              std::function<void()> then = {});
  /// A client may have put descriptors into its socket that take as long to close as it likes.
  void close_elsewhere(muster::ipc::Fd& socket, BlockingPool::Source source, Charge& descriptors,
                       std::function<void()> then = {});
  void adopt(muster::ipc::Fd& socket);
  [[nodiscard]] muster::Result<void> admit(const ConnectionPtr& connection, muster::ipc::Fd& socket,
                                           muster::ipc::Fd& process);
  void wait_for_hello(const ConnectionPtr& connection);
  [[nodiscard]] ClientId next_client();
  [[nodiscard]] static BlockingPool::Source source_of(const Connection& connection, BlockingPool::Source::Of of);
  // connections.cpp
  /// Calls `what`. If it throws, as memory is short, this ends the connection, and nothing else.
  template <class What>
  void guarded(const ConnectionPtr& connection, What what) noexcept {
    try {
      what();
    } catch (const std::exception&) {
      cut_off(connection, std::nullopt);
    }
  }
  void wait_for_frames(const ConnectionPtr& connection);
  void wait_for_doorbell(const ConnectionPtr& connection);
  void wait_for_death(const ConnectionPtr& connection);
  void receive_some(const ConnectionPtr& connection, Slice& slice);
  void read_ring(const ConnectionPtr& connection, Slice& slice);
  void run_behind(const ConnectionPtr& connection, Slice& slice);
  void after_ring(const ConnectionPtr& connection, std::function<void()> then);
  void in_turn_of(ClientId client, std::function<void()> then);
  void receive(const ConnectionPtr& connection);
  void take_frame(const ConnectionPtr& connection, std::span<const std::byte> frame);
  void ended(const ConnectionPtr& connection, const std::string& as_seen);
  void drop(const ConnectionPtr& connection) noexcept;
  void give_back() noexcept;
  void give_back(Connection& connection);
  void flush_socket(const ConnectionPtr& connection);
  static void forget_unsent(Connection& connection);
  [[nodiscard]] bool may_send_later(const ConnectionPtr& connection, const muster::Error& error);
  [[nodiscard]] ConnectionPtr find(ClientId client) const;
  // effects.cpp
  void send(const ConnectionPtr& connection, std::span<const std::byte> frame, std::span<const int> fds);
  void open_rings(const ConnectionPtr& connection);
  void cut_off(const ConnectionPtr& connection, std::optional<muster::Error> because) noexcept;
  [[nodiscard]] bool is_too_much(const ConnectionPtr& connection);
  [[nodiscard]] muster::Result<bool> send_packet(const ConnectionPtr& connection, std::span<const std::byte> frame,
                                                 std::span<const int> fds);
  void charge_replies(const ConnectionPtr& connection);
  void charge_backlog(const ConnectionPtr& connection);
  void wait_for_lifeline(ClientId heir, const LifeLinePtr& line);
  void lifeline_ended(ClientId heir, LifeLine& line);
  // server.cpp: the loop and the end
  bool take_turns();
  bool go_on();
  void take_posted(Errand errand) noexcept;  ///< from lanes and from the blocking pools
  void take(Errand& errand) noexcept;
  bool run_posted() noexcept;
  bool run_later() noexcept;
  void flush_completions() noexcept;
  void flush(const ConnectionPtr& connection, std::optional<TimePoint>& woke);
  void end_cut_off() noexcept;
  void set_polled(const ConnectionPtr& connection);
  void set_dirty(const ConnectionPtr& connection);
  void set_takes_turns(const ConnectionPtr& connection, bool Connection::*why, bool is_so);
  void sleep();
  void take_events() noexcept;
  void tick_if_due();
  void tick();
  [[nodiscard]] TimePoint next_deadline() const;
  void wait_for_idle_exit() noexcept;
  void exit_if_idle() noexcept;
  void shut_down();
  void finish_stop() noexcept;

  ServerSettings settings_;
  Endpoint endpoint_;
  asio::io_context io_{1};
  Descriptor listener_;
  asio::signal_set signals_;
  TimePoint idle_exit_ = TimePoint::max();      ///< when the daemon ends unless somebody comes
  TimePoint stop_deadline_ = TimePoint::max();  ///< when the daemon ends, whatever still goes on
  bool listening_ = false;                      ///< Asio reports new connections
  Retry accepting_{std::chrono::milliseconds(50)};
  muster::ipc::Fd newcomer_;  ///< accepted, but there was no memory to let it in or to refuse it
  muster::ipc::Fd spare_;     ///< closed to have a descriptor for refusing a connection when they run out
  std::map<ClientId, ConnectionPtr> connections_;
  ConnectionShares shares_;                                      ///< counts the connections
  Rounds<ConnectionPtr> rounds_{{Clock::now, thread_cpu_time}};  ///< connections that are polled or have frames
  EffortMeter effort_{{Clock::now, thread_cpu_time}};
  // These two have room for every connection: see admit().
  std::vector<ConnectionPtr> dirty_;
  std::vector<ConnectionPtr> cut_off_;
  std::map<ClientId, ConnectionPtr> leaving_;  ///< ended connections with parts that are still to be given back
  Later later_;                                ///< work that waited for the rings of connections that have ended
  std::map<ClientId, LifeLinePtr> lifelines_;
  std::map<ClientId, LifeLinePtr> loose_lines_;  ///< not watched; to be closed or watched again
  Retry giving_back_{std::chrono::milliseconds(10)};
  Retry going_on_{std::chrono::milliseconds(10)};  ///< for the node's own work
  std::uint32_t last_client_ = 0;
  std::vector<std::uint64_t> random_;
  TimePoint now_ = Clock::now();
  TimePoint next_events_;
  TimePoint next_tick_ = TimePoint::max();
  bool memory_wanted_ = false;
  bool stopping_ = false;
  bool shuts_down_ = false;  ///< the node is told of the end in the next turn
  bool done_ = false;
  std::string reason_;

  /// Other threads hand their errands over here, and the memory of GPUs does, which may end later than the server.
  struct Posting {
    std::mutex mutex;
    Errand errands;
    AsioServer* server = nullptr;  ///< null once nothing is taken any more
  };
  std::shared_ptr<Posting> posting_ = std::make_shared<Posting>();
  std::atomic<bool> has_posted_{false};
  std::atomic<bool> sleeping_{false};

  MemfdBacking backing_;
  gpu::Gpus gpus_;
  BlockingPool blocking_;
  Populator populator_;
  LocalDecider decider_;
  Node node_;
  HostLane lane_;
};

}  // namespace musterd
