// The daemon's socket in the file system. A lock file, which outlives every daemon, makes sure that each path has one
// daemon. A socket that a dead daemon left behind is taken over.
#pragma once

#include <optional>
#include <string>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "base/time.hpp"

namespace musterd {

class Endpoint {
 public:
  /// Takes the lock and listens. Returns nothing if another daemon serves this path; waits up to `patience` for one
  /// that is just ending. Makes the directory (mode 0700) if there is none. `mode` is the socket's, and says which
  /// other users may connect.
  [[nodiscard]] static muster::Result<std::optional<Endpoint>> open(std::string path, unsigned mode, Duration patience);

  Endpoint(Endpoint&&) = default;
  Endpoint& operator=(Endpoint&&) = default;
  ~Endpoint() { close(); }

  [[nodiscard]] const muster::ipc::Fd& listener() const { return listener_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  /// Refuses connections from now on; the lock stays until the process ends.
  void close();

 private:
  Endpoint(std::string path, muster::ipc::Fd lock, muster::ipc::Fd listener)
      : path_(std::move(path)), lock_(std::move(lock)), listener_(std::move(listener)) {}
  std::string path_;
  muster::ipc::Fd lock_;
  muster::ipc::Fd listener_;
};

}  // namespace musterd
