// A daemon for one test, on a socket in a folder that is removed with it; and child processes that report by exit
// status.
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
  /// Returns this process's client, always the same.
  [[nodiscard]] Client connect() const;
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Sends the signal. If it ends the daemon, waits for the end.
  void kill(int signal);
  /// Ends it in order. Returns its exit status, or -1 if a signal ended it.
  int end();

 private:
  TempFolder folder_;
  pid_t pid_ = -1;
};

/// Runs `body` in a forked child that ends with 0 if it returns true.
[[nodiscard]] pid_t in_child(const std::function<bool()>& body);
/// Waits for the child. Returns true if its exit status is 0.
[[nodiscard]] bool succeeded(pid_t child);

/// Makes an array of `count` floats in place; all of them are `value`.
[[nodiscard]] Ref filled(Client& client, std::int64_t count, float value);
/// How much memory the daemon holds, after it has read everything that this client wrote.
[[nodiscard]] std::uint64_t memory_used(const Client& client);
/// Returns the only array of the object.
[[nodiscard]] std::vector<float> floats(const Ref& ref);

}  // namespace muster::test
