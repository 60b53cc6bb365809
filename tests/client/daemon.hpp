// A daemon of a test's own, on a socket in a folder that goes with it; and child processes that report by exit status.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include <muster/client.hpp>

namespace muster::test {

class TempFolder {
 public:
  TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder();
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string socket() const { return path_ + "/musterd.sock"; }

 private:
  std::string path_;
};

class Daemon {
 public:
  explicit Daemon(const std::string& memory = "256MiB");
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon() { kill(9); }

  [[nodiscard]] std::string socket() const { return folder_.socket(); }
  /// This process's client, always the same.
  [[nodiscard]] Client connect() const;
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Sends the signal; after one that ends it, waits for the end.
  void kill(int signal);

 private:
  TempFolder folder_;
  pid_t pid_ = -1;
};

/// Runs `body` in a forked child that ends with 0 if it returns true.
[[nodiscard]] pid_t in_child(const std::function<bool()>& body);
/// Waits for the child. True: it ended with 0.
[[nodiscard]] bool succeeded(pid_t child);

/// An array of `count` floats, all of them `value`, made in place.
[[nodiscard]] Ref filled(Client& client, std::int64_t count, float value);
/// What the daemon holds, after it has read all that this client wrote.
[[nodiscard]] std::uint64_t memory_used(const Client& client);
/// The only array of the object.
[[nodiscard]] std::vector<float> floats(const Ref& ref);

}  // namespace muster::test
