// An Outside that keeps what the node sends: frames, completions, closed clients. Jobs end with settle(), or when told
// to.
#pragma once

#include <fcntl.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <muster/ipc/records.hpp>

#include "session/node.hpp"
#include "session/outside.hpp"
#include "test_decider.hpp"
#include "test_lane.hpp"

namespace musterd::testing {

class Recorder : public Outside {
  std::unique_ptr<TestLane> lane_;

 public:
  explicit Recorder(std::unique_ptr<TestLane> lane = std::make_unique<TestLane>())
      : lane_(std::move(lane)), jobs(*lane_) {}

  struct Completion {
    muster::ipc::CompletionType type;
    std::vector<std::byte> body;
  };

  void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) override {
    frames[client].emplace_back(frame.begin(), frame.end());
    for (const int fd : fds) last_fd = muster::ipc::Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  }
  muster::Result<void> welcome(ClientId client, std::span<const std::byte> frame) override {
    if (no_rings) return *no_rings;
    send(client, frame, {});
    return {};
  }
  SegmentTable::Sealing seal_rings(ClientId client) override {
    opened_rings.insert(client);
    return {[] {}, [] { return muster::Result<void>(); }};
  }
  void greeted(ClientId) override {}
  void complete(ClientId client, muster::ipc::CompletionType type, std::span<const std::byte> body) override {
    completions[client].push_back({type, {body.begin(), body.end()}});
  }
  void show_memory_wanted(bool wanted) override { memory_wanted = wanted; }
  void close(ClientId client, const std::string&, ConnectionCharges) override { closed.insert(client); }
  bool after_ring(ClientId client, ClientId /*asks*/, std::function<void()> then) override {
    rings_read.push_back(client);
    if (hold_rings) waiting_for_rings.push_back(std::move(then));
    return !hold_rings;
  }
  muster::Result<muster::ipc::Fd> watch_lifeline(ClientId /*client*/, ClientId heir) override {
    lifelines.insert(heir);
    return muster::ipc::create_eventfd();
  }
  Decider& decider() override { return decisions; }
  Lane* lane(std::span<const muster::Device> devices) override {
    return devices.front().is_host() || works_on_gpus ? lane_.get() : nullptr;
  }
  void run_blocking(ClientId, std::function<void()> work, std::function<void()> then) override {
    work();
    if (hold_blocking) blocked.push_back(std::move(then));
    else then();
  }
  void dispose(UserId, Remains remains, std::function<void()> then) override {
    ++disposed;
    remains = {};
    then();
  }
  void populate(const SegmentMemoryPtr&) override { ++mapped; }
  bool is_stopped(std::int32_t pid) override { return stopped_processes.contains(pid); }
  muster::ipc::Capability random_capability() override { return {{++random, 17}}; }
  void stop(std::string reason) override { stopped = std::move(reason); }

  /// Does what the server does after each event: the decider and the lanes report what they have done.
  void settle() {
    if (!decisions.hold) decisions.agree_to_all();
    if (!jobs.hold) jobs.end_all();
    if (!decisions.hold && !decisions.asked.empty()) settle();
  }
  void run_blocked() {
    for (auto& then : std::exchange(blocked, {})) then();
  }
  void read_rings() {
    for (auto& then : std::exchange(waiting_for_rings, {})) then();
  }
  /// Returns the outcomes that `client` got since the last call.
  std::vector<Completion> take(ClientId client) { return std::exchange(completions[client], {}); }

  TestLane& jobs;
  TestDecider decisions;
  std::map<ClientId, std::vector<std::vector<std::byte>>> frames;
  std::map<ClientId, std::vector<Completion>> completions;
  std::set<ClientId> closed;
  std::set<ClientId> opened_rings;
  std::set<ClientId> lifelines;
  std::vector<std::function<void()>> blocked;
  bool works_on_gpus = false;  ///< the lane works there, too; their memory must have addresses on the host
  bool hold_blocking = false;
  bool hold_rings = false;
  std::optional<muster::Error> no_rings;  ///< set: why the system has no rings to give
  bool memory_wanted = false;
  muster::ipc::Fd last_fd;
  std::vector<ClientId> rings_read;
  std::vector<std::function<void()>> waiting_for_rings;
  std::uint64_t random = 0;
  std::size_t mapped = 0;  ///< counts segments
  std::set<std::int32_t> stopped_processes;
  std::size_t disposed = 0;  ///< counts segments
  std::string stopped;
};

}  // namespace musterd::testing
