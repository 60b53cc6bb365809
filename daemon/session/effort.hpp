// Finds the clients that make system calls of the control thread long. A client can have a million epoll sets watch its
// end of a socket, an eventfd or a bell, or have thousands of threads sleep on one futex. Each call that tells it
// something then walks all of them. One long call proves nothing, as the kernel may do work of others in it, for
// example free what strangers have closed. Such work makes only a few calls some milliseconds longer, while watchers
// make call after call long.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>

#include "session/slice.hpp"

namespace musterd {

/// What is known of the calls for one client.
struct KernelEffort {
  /// A cause that makes calls of one kind long leaves the other kinds short, so each kind is judged by itself.
  enum class Of : std::uint8_t { sending, receiving, doorbell, waking };
  static constexpr std::size_t kinds = 4;
  static constexpr std::size_t remembered = 16;  ///< calls of each kind
  /// The calls of one kind.
  struct Calls {
    bool suspected = false;                          ///< the next call is measured
    std::uint8_t next = 0;                           ///< modulo `remembered`: the index of the oldest in long_ms
    std::array<std::uint8_t, remembered> long_ms{};  ///< the length of each measured call; 0 if it was not long
  };

  bool too_much = false;  ///< stays true
  std::array<Calls, kinds> calls{};

  [[nodiscard]] Calls& of(Of kind) { return calls[static_cast<std::size_t>(kind)]; }
};

class EffortMeter {
 public:
  using Of = KernelEffort::Of;
  static constexpr Duration max = std::chrono::milliseconds(2);  ///< a longer call is long
  /// A client is too much if so many of the remembered calls were long, or if the long ones together took longer than
  /// `all_max`.
  static constexpr int long_max = KernelEffort::remembered / 2;
  static constexpr Duration all_max = std::chrono::milliseconds(50);

  explicit EffortMeter(RoundsClock clock) : clock_(std::move(clock)) {}

  /// For rare calls, where two more system calls don't matter.
  template <class Call>
  auto measure(KernelEffort& effort, Of kind, Call call) {
    const Duration before = clock_.on_core();
    auto result = call();
    note(effort, kind, clock_.on_core() - before);
    return result;
  }
  /// For frequent calls: if one seems long, the next one is measured.
  template <class Call>
  void watch(KernelEffort& effort, Of kind, Call call) {
    const TimePoint before = clock_.now();
    in_batch(effort, kind, call);
    if (seems_long(before)) effort.of(kind).suspected = true;
  }
  /// For calls in batches, where asking the clock for each call would cost too much. If a batch seems long, the caller
  /// suspects each client in it.
  template <class Call>
  void in_batch(KernelEffort& effort, Of kind, Call call) {
    if (std::exchange(effort.of(kind).suspected, false)) measure(effort, kind, [&] { return call(), true; });
    else call();
  }
  [[nodiscard]] TimePoint begin_batch() const { return clock_.now(); }
  [[nodiscard]] bool seems_long(TimePoint began) const { return clock_.now() - began > max; }

 private:
  /// A client stays suspected as long as one of its remembered calls was long.
  static void note(KernelEffort& effort, Of kind, Duration took) {
    constexpr std::int64_t ms_max = 255;
    auto& calls = effort.of(kind);
    const auto ms = std::min<std::int64_t>(took / std::chrono::milliseconds(1), ms_max);
    calls.long_ms[calls.next++ % KernelEffort::remembered] = static_cast<std::uint8_t>(took > max ? ms : 0);
    const auto longs = std::ranges::count_if(calls.long_ms, [](int each) { return each > 0; });
    const std::chrono::milliseconds all(std::accumulate(calls.long_ms.begin(), calls.long_ms.end(), 0));
    calls.suspected = longs > 0;
    effort.too_much |= longs >= long_max || all > all_max;
  }
  RoundsClock clock_;
};

}  // namespace musterd
