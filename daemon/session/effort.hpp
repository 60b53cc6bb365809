// Finds the clients that make the kernel work long for the control thread. A client can have others watch its end of a
// socket, an eventfd or a bell by a million epoll sets, or have thousands of threads sleep on one futex; each call that
// tells it something then walks all of them.
// One long call proves nothing: the kernel does work of others in it, as freeing what strangers have closed. That comes
// in some milliseconds of few calls, while what is watched makes call after call long.
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

/// Of one client.
struct KernelEffort {
  /// What makes calls of one kind long leaves the others short, so each kind is judged by itself.
  enum class Of : std::uint8_t { sending, receiving, doorbell, waking };
  static constexpr std::size_t kinds = 4;
  static constexpr std::size_t remembered = 16;  ///< calls of each kind
  /// Those of one kind.
  struct Calls {
    bool suspected = false;                          ///< so the next one is measured
    std::uint8_t next = 0;                           ///< modulo their number the oldest of:
    std::array<std::uint8_t, remembered> long_ms{};  ///< of each measured one; 0: it was not long
  };

  bool too_much = false;  ///< for good
  std::array<Calls, kinds> calls{};

  [[nodiscard]] Calls& of(Of kind) { return calls[static_cast<std::size_t>(kind)]; }
};

class EffortMeter {
 public:
  using Of = KernelEffort::Of;
  static constexpr Duration max = std::chrono::milliseconds(2);  ///< more is long
  /// It is too much if so many of the remembered calls were long, or all of them together took longer than this.
  static constexpr int long_max = KernelEffort::remembered / 2;
  static constexpr Duration all_max = std::chrono::milliseconds(50);

  explicit EffortMeter(RoundsClock clock) : clock_(std::move(clock)) {}

  /// For calls that are so rare that two more system calls don't matter.
  template <class Call>
  auto measure(KernelEffort& effort, Of kind, Call call) {
    const Duration before = clock_.on_core();
    auto result = call();
    note(effort, kind, clock_.on_core() - before);
    return result;
  }
  /// For frequent calls: those that seem long have the next one measured.
  template <class Call>
  void watch(KernelEffort& effort, Of kind, Call call) {
    const TimePoint before = clock_.now();
    in_batch(effort, kind, call);
    if (seems_long(before)) effort.of(kind).suspected = true;
  }
  /// For calls of which many are made at once, so that asking the clock for each would cost too much. When all of them
  /// together seem long, their caller suspects each.
  template <class Call>
  void in_batch(KernelEffort& effort, Of kind, Call call) {
    if (std::exchange(effort.of(kind).suspected, false)) measure(effort, kind, [&] { return call(), true; });
    else call();
  }
  [[nodiscard]] TimePoint begin_batch() const { return clock_.now(); }
  [[nodiscard]] bool seems_long(TimePoint began) const { return clock_.now() - began > max; }

 private:
  /// Who had a long call stays under suspicion until it is no more remembered.
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
