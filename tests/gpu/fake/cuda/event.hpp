// Events: points of streams that others can wait for, also in other processes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>

#include <cuda.h>

#include "process.hpp"

namespace fake_gpu {

class Context;

/// What processes share of an event. Recordings are counted; the event is complete when the last one is.
struct EventState {
  std::atomic<std::uint64_t> recorded{0};
  std::atomic<std::uint64_t> completed{0};
  std::atomic<std::uint32_t> destroyed{0};  // by the process that made it
};

struct Event {
  Context* context = nullptr;
  unsigned flags = 0;
  bool imported = false;
  std::uint64_t number = 0;  // tells the events of a process apart
  std::shared_ptr<EventState> state;
  std::filesystem::path path;  // of the shared state, if there is any
  std::chrono::steady_clock::time_point when;

  [[nodiscard]] bool complete(std::uint64_t recording) const { return state->completed.load() >= recording; }
  [[nodiscard]] bool complete() const { return complete(state->recorded.load()); }
};

/// The file of the shared state of a process's event.
std::filesystem::path event_path(const ProcessId& process, std::uint64_t number);
/// Maps the state in this file; makes it if it has to. Null if it isn't there.
std::shared_ptr<EventState> shared_event_state(const std::filesystem::path& path, bool make);

}  // namespace fake_gpu
