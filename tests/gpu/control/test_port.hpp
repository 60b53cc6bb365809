// A worker that is in the same process: it keeps what it is told, and a test says what it answers.
#pragma once

#include <sys/mman.h>

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <muster/ipc/fd.hpp>

#include "gpu/control/worker_port.hpp"

namespace musterd::gpu::testing {

class TestPort final : public WorkerPort {
 public:
  struct Told {
    WorkerFrame frame;
    SharedFd fd;
    std::optional<UserId> user;
    [[nodiscard]] const wire::Frame& read() const { return *read_worker_frame(frame); }
  };
  muster::Result<void> start() override {
    if (refuses) return muster::Error(muster::Code::failed, "no process");
    ++started;
    return {};
  }
  void send(WorkerFrame frame, SharedFd fd, std::optional<UserId> user) override {
    told.push_back({std::move(frame), std::move(fd), user});
  }
  [[nodiscard]] std::size_t waiting_bytes() const override {
    std::size_t all = 0;
    for (const auto& [user, bytes] : waiting) all += bytes;
    return all;
  }
  [[nodiscard]] std::size_t waiting_bytes(UserId user) const override {
    const auto found = waiting.find(user);
    return found == waiting.end() ? 0 : found->second;
  }
  void kill() noexcept override { ++killed; }

  /// Takes what was told since the last call.
  std::vector<Told> take() { return std::exchange(told, {}); }

  std::vector<Told> told;
  int started = 0;
  int killed = 0;
  bool refuses = false;
  std::map<UserId, std::size_t> waiting;
};

inline std::vector<wire::Body> types(const std::vector<TestPort::Told>& told) {
  std::vector<wire::Body> found;
  for (const auto& each : told) found.push_back(each.read().body_type());
  return found;
}

inline muster::ipc::Fd some_descriptor() { return muster::ipc::Fd(::memfd_create("device", MFD_CLOEXEC)); }

}  // namespace musterd::gpu::testing
