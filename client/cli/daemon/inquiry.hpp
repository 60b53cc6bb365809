// A short conversation with the daemon, for questions that libmuster has no call for. It takes no memory and no seat.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <muster/ipc/socket.hpp>
#include <muster/ipc/wire_generated.h>
#include <muster/result.hpp>

namespace muster::cli {

namespace wire = ipc::wire;

/// A frame that arrived, and its body.
class Reply {
 public:
  explicit Reply(std::vector<std::byte> frame) : frame_(std::move(frame)) {}
  [[nodiscard]] const wire::Frame& frame() const { return *wire::GetFrame(frame_.data()); }

 private:
  std::vector<std::byte> frame_;
};

class Inquiry {
 public:
  /// `socket` is empty for the default. `timeout` bounds the wait for each answer. DaemonUnavailable if no daemon
  /// listens; `hint_if_absent` then says what to do, or if it is empty, to start one.
  [[nodiscard]] static Result<Inquiry> open(const std::string& socket,
                                            std::chrono::milliseconds timeout = std::chrono::seconds(20),
                                            const std::string& hint_if_absent = {});

  [[nodiscard]] Result<Reply> status();
  [[nodiscard]] Result<Reply> objects(std::uint32_t limit);
  [[nodiscard]] Result<Reply> groups();
  [[nodiscard]] Result<Reply> clients();
  /// Asks the daemon to end.
  [[nodiscard]] Result<Reply> stop(const std::string& reason);

  [[nodiscard]] const std::string& socket() const { return path_; }
  [[nodiscard]] const std::string& version() const { return version_; }  ///< the daemon's
  [[nodiscard]] std::uint32_t client() const { return client_; }  ///< this conversation's number among the clients
  [[nodiscard]] std::uint64_t memory_bytes() const { return memory_bytes_; }
  [[nodiscard]] std::chrono::milliseconds pickle_lease() const { return pickle_lease_; }
  [[nodiscard]] double idle_exit_s() const { return idle_exit_s_; }  ///< 0: it stays without clients
  /// The daemon's process, if it is in this pid namespace.
  [[nodiscard]] std::optional<pid_t> daemon_pid() const;
  /// Whether the daemon is this user's or root's, so that what it says may be relied on.
  [[nodiscard]] bool is_trusted() const;
  /// Hangs up and waits until the daemon's process has ended, or until the connection has ended if the process can't be
  /// seen. Returns false if that takes longer than `timeout`.
  [[nodiscard]] bool wait_for_end(std::chrono::milliseconds timeout);

 private:
  Inquiry(ipc::Fd fd, std::string path, std::chrono::milliseconds timeout)
      : fd_(std::move(fd)), path_(std::move(path)), timeout_(timeout) {}
  [[nodiscard]] Result<void> greet();
  [[nodiscard]] Error no_answer() const;
  [[nodiscard]] bool await_answer(std::chrono::steady_clock::time_point until);
  [[nodiscard]] Result<Reply> ask(flatbuffers::FlatBufferBuilder& builder, wire::Body type,
                                  flatbuffers::Offset<void> body, wire::Body expected);

  ipc::Fd fd_;
  std::string path_;
  std::chrono::milliseconds timeout_;
  std::string version_;
  std::uint32_t client_ = 0;
  std::uint64_t memory_bytes_ = 0;
  double idle_exit_s_ = 0;
  std::chrono::milliseconds pickle_lease_{};
  std::uint64_t requests_ = 0;
  bool told_of_wait_ = false;
};

}  // namespace muster::cli
