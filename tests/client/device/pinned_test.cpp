#include "device/pinned.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

using muster::detail::PinLimit;

TEST_CASE("a limit gives what it has, and nothing beyond") {
  PinLimit limit(100);
  CHECK(limit.take(60));
  CHECK_FALSE(limit.take(41));
  CHECK(limit.take(40));
  CHECK(limit.take(0));
  CHECK_FALSE(limit.take(1));
  limit.give_back(60);
  CHECK_FALSE(limit.take(61));
  CHECK_FALSE(limit.take(UINT64_MAX));
  CHECK(limit.take(60));
}

TEST_CASE("threads together take no more than there is") {
  constexpr std::uint64_t bytes = 1000;
  PinLimit limit(bytes);
  std::atomic<std::uint64_t> taken = 0;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      while (limit.take(1)) ++taken;
    });
  for (auto& thread : threads) thread.join();
  CHECK(taken == bytes);
}

TEST_CASE("a process that has not opened the driver pins nothing that it reads, and does not open it") {
  PinLimit limit(4096);
  std::vector<std::byte> memory(4096);
  CHECK_FALSE(muster::detail::pin_for_reading(memory.data(), memory.size(), limit));
  CHECK(muster::detail::Cuda::if_open() == nullptr);
  CHECK(limit.take(4096));
}
