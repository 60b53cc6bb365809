// The server's one class, over several files: the loop and the end are in server.cpp, who comes in accepting.cpp, what
// comes from one client in connections.cpp, what the node wants done in effects.cpp.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <muster/ipc/fd.hpp>

#include "base/blocking_pool.hpp"
#include "base/cpu_time.hpp"
#include "collective/host_lane.hpp"
#include "memory/memfd_backing.hpp"
#include "memory/populator.hpp"
#include "session/connection.hpp"
#include "session/crowd.hpp"
#include "session/effort.hpp"
#include "session/endpoint.hpp"
#include "session/later.hpp"
#include "session/outside.hpp"
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
  [[nodiscard]] Lane& lane() override { return lane_; }
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
  std::vector<ConnectionPtr> dirty_;
  std::vector<ConnectionPtr> left_;  ///< those that are gone, with their rings
  Later later_;                      ///< what waited for the rings of those that are gone
  std::map<ClientId, LifeLinePtr> lifelines_;
  std::uint32_t last_client_ = 0;
  std::vector<std::uint64_t> random_;
  TimePoint now_ = Clock::now();
  TimePoint next_events_;
  TimePoint next_tick_ = TimePoint::max();
  bool memory_wanted_ = false;
  bool stopping_ = false;
  bool done_ = false;
  std::string reason_;

  MemfdBacking backing_;
  BlockingPool blocking_;
  Populator populator_;
  LocalDecider decider_;
  Node node_;
  // What lanes have posted holds leases of the node's objects, so it goes first.
  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> has_posted_{false};
  std::atomic<bool> sleeping_{false};
  HostLane lane_;
};

}  // namespace musterd
