// One thread at a time does something for all; the others miss no news of it.
#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "core/turn.hpp"

namespace {

using muster::detail::OrderedMutex;
using muster::detail::Rank;
using muster::detail::Turn;
using namespace std::chrono_literals;
using std::chrono::steady_clock;

TEST_CASE("one has the turn at a time") {
  OrderedMutex mutex(Rank::state);
  Turn turn(mutex);
  REQUIRE(turn.try_take());
  CHECK_FALSE(turn.try_take());
  { const Turn::Having having(turn); }
  CHECK(turn.try_take());
}

TEST_CASE("nobody waits for news that has come since it looked") {
  OrderedMutex mutex(Rank::state);
  Turn turn(mutex);
  const auto seen = turn.seen();
  REQUIRE(turn.take_or_wait(seen, steady_clock::now()));
  turn.tell();
  // Otherwise this call would wait for ever.
  CHECK_FALSE(turn.take_or_wait(seen, steady_clock::time_point::max()));
  CHECK(turn.seen() != seen);
  const auto before = turn.seen();
  { const Turn::Having having(turn); }
  CHECK(turn.seen() != before);
}

TEST_CASE("each of many threads gets what one of them fetches for all") {
  OrderedMutex mutex(Rank::state);
  Turn turn(mutex);
  constexpr int threads = 4, wanted = 2000;
  std::atomic<int> fetched{0};
  std::atomic<int> inside{0};
  std::atomic<bool> alone{true};
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i)
    all.emplace_back([&] {
      for (;;) {
        const auto seen = turn.seen();
        if (fetched >= wanted) return;
        if (!turn.take_or_wait(seen, steady_clock::now() + 10s)) continue;
        const Turn::Having having(turn);
        if (++inside != 1) alone = false;
        ++fetched;
        --inside;
      }
    });
  for (auto& thread : all) thread.join();
  CHECK(alone);
  CHECK(fetched >= wanted);
}

}  // namespace
