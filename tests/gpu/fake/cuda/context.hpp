// Contexts: what the calls of a thread are about, and what dies with them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <cuda.h>

#include "failure.hpp"
#include "stream.hpp"

namespace fake_gpu {

struct Event;
struct Module;

class Context {
 public:
  Context(int ordinal, bool primary, unsigned flags) : ordinal_(ordinal), primary_(primary), flags_(flags) {}

  [[nodiscard]] int ordinal() const { return ordinal_; }
  [[nodiscard]] bool primary() const { return primary_; }
  [[nodiscard]] bool active() const { return active_; }
  [[nodiscard]] unsigned flags() const { return flags_; }
  void set_flags(unsigned flags) { flags_ = flags; }
  [[nodiscard]] CUcontext handle() { return reinterpret_cast<CUcontext>(this); }

  /// The error that every later call of this context returns, or success.
  [[nodiscard]] CUresult broken() const { return broken_; }
  void break_with(CUresult code);
  /// Whether it is being destroyed: then work that waits gives up.
  [[nodiscard]] bool ending() const { return ending_; }

  void add_peer(Context& peer) { peers_.insert(&peer); }
  void remove_peer(Context& peer) { peers_.erase(&peer); }
  [[nodiscard]] bool has_peer(Context* peer) const { return peers_.contains(peer); }

  std::shared_ptr<Stream> create_stream(unsigned flags, int priority);
  void forget_stream(Stream& stream) { streams_.erase(&stream); }
  /// Takes handles of streams, and the values that stand for the default streams. Throws for others.
  std::shared_ptr<Stream> stream(CUstream handle);
  std::shared_ptr<Stream> legacy_stream();
  std::shared_ptr<Stream> legacy_stream_if_any() const { return legacy_; }
  [[nodiscard]] std::vector<std::shared_ptr<Stream>> all_streams() const;

  void activate();
  /// Gives up everything that is the context's.
  void end(std::unique_lock<std::mutex>& lock);

  int retained = 0;  // of a primary context

 private:
  void end_memory(std::unique_lock<std::mutex>& lock);
  void end_objects();

  int ordinal_;
  bool primary_;
  unsigned flags_;
  bool active_ = false;
  bool ending_ = false;
  CUresult broken_ = CUDA_SUCCESS;
  std::set<Context*> peers_;
  std::map<Stream*, std::shared_ptr<Stream>> streams_;
  std::shared_ptr<Stream> legacy_;
  std::map<std::thread::id, std::shared_ptr<Stream>> per_thread_;
};

/// The contexts of this thread; the last one is current.
std::vector<Context*>& current_contexts();

}  // namespace fake_gpu
