// Rings: records come out as they went in, through wrap-arounds, a full ring and two threads. A consumer survives any
// positions and lengths that the other side may write.
#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include <sched.h>

#include <catch2/catch.hpp>
#include <muster/ipc/ring.hpp>

#include "random.hpp"

namespace muster::ipc {
namespace {

using test::Random;
using Bytes = std::vector<std::byte>;

/// A ring with both of its ends in this process, between guard zones that must stay untouched.
struct Pair {
  static constexpr std::size_t guard = 4096;
  static constexpr auto untouched = std::byte{0xa5};
  alignas(64) std::atomic<std::uint64_t> tail{0};
  alignas(64) std::atomic<std::uint64_t> head{0};
  std::vector<std::uint64_t> memory = std::vector<std::uint64_t>((ring_bytes + 2 * guard) / 8, 0xa5a5a5a5a5a5a5a5);
  std::byte* ring = reinterpret_cast<std::byte*>(memory.data()) + guard;
  RingProducer producer{ring, tail, head};
  RingConsumer consumer{ring, tail, head};

  [[nodiscard]] bool guards_untouched() const {
    for (std::size_t i = 0; i < guard; ++i)
      if (*(ring - 1 - i) != untouched || ring[ring_bytes + i] != untouched) return false;
    return true;
  }
  void put_header(std::uint64_t position, RecordHeader header) {
    std::memcpy(ring + position % ring_bytes, &header, sizeof header);
  }
};

Bytes copy(std::span<const std::byte> body) { return {body.begin(), body.end()}; }

std::size_t random_size(Random& random) {
  return random.chance(0.02) ? random.between(0, record_bytes_max) : random.between(0, 300);
}

TEST_CASE("an empty ring has no record, and nothing is seen before publish") {
  Pair pair;
  REQUIRE_FALSE(pair.consumer.next()->has_value());
  REQUIRE(pair.producer.try_write(3, Bytes(5, std::byte{1})).value());
  REQUIRE(pair.consumer.empty());
  REQUIRE_FALSE(pair.consumer.next()->has_value());
  pair.producer.publish();
  REQUIRE_FALSE(pair.consumer.empty());
  const auto record = pair.consumer.next().value();
  REQUIRE(record->type == 3);
  REQUIRE(copy(record->body) == Bytes(5, std::byte{1}));
  REQUIRE_FALSE(pair.consumer.next()->has_value());
  REQUIRE(pair.consumer.empty());
}

TEST_CASE("a record larger than the limit, or of type 0, is refused, one of just the limit passes") {
  Pair pair;
  REQUIRE(pair.producer.try_write(1, Bytes(record_bytes_max + 1)).error().code() == Code::invalid);
  REQUIRE(pair.producer.try_write(0, Bytes(8)).error().code() == Code::invalid);
  REQUIRE(pair.producer.position() == 0);
  for (int i = 0; i < 50; ++i) {
    REQUIRE(pair.producer.try_write(1, Bytes(record_bytes_max)).value());
    pair.producer.publish();
    REQUIRE(pair.consumer.next().value()->body.size() == record_bytes_max);
  }
}

TEST_CASE("random writes and reads against a model: order and bytes are kept, a full ring takes nothing") {
  const auto seed = GENERATE(range(0u, 20u));
  CAPTURE(seed);
  Random random(seed);
  Pair pair;
  std::deque<std::pair<std::uint16_t, Bytes>> written, published;
  bool was_full = false;
  for (int step = 0; step < 3000; ++step) {
    if (random.chance(seed % 2 == 0 ? 0.6 : 0.5)) {
      auto body = random.bytes(random_size(random));
      const auto type = static_cast<std::uint16_t>(random.between(1, 0xffff));
      const auto before = pair.producer.position();
      if (pair.producer.try_write(type, body).value()) {
        written.emplace_back(type, std::move(body));
      } else {
        was_full = true;
        REQUIRE(pair.producer.position() == before);
      }
      if (random.chance(0.5)) {
        pair.producer.publish();
        for (auto& record : written) published.push_back(std::move(record));
        written.clear();
      }
    } else if (const auto record = pair.consumer.next().value()) {
      REQUIRE_FALSE(published.empty());
      REQUIRE(record->type == published.front().first);
      REQUIRE(copy(record->body) == published.front().second);
      published.pop_front();
    } else {
      REQUIRE(published.empty());
    }
  }
  REQUIRE(pair.guards_untouched());
  if (seed % 2 == 0) REQUIRE(was_full);
}

TEST_CASE("a full ring takes records again as soon as one was read") {
  Pair pair;
  const Bytes body(1000);
  std::size_t count = 0;
  while (pair.producer.try_write(1, body).value()) ++count;
  REQUIRE(count == ring_bytes / 1008);
  pair.producer.publish();
  REQUIRE(pair.consumer.next().value());
  REQUIRE(pair.producer.try_write(1, body).value() == (ring_bytes % 1008 != 0));
  while (pair.consumer.next().value()) {
  }
  REQUIRE(pair.producer.try_write(1, body).value());
}

TEST_CASE("two threads, one mapping: every record arrives once, in order, whole") {
  Pair pair;
  constexpr std::uint64_t count = 30'000;
  std::thread writer([&] {
    Random random(5);
    Backoff backoff;
    for (std::uint64_t i = 0; i < count; ++i) {
      Bytes body(9 + random_size(random) / 2, static_cast<std::byte>(i));
      std::memcpy(body.data(), &i, sizeof i);
      while (!pair.producer.try_write(1, body).value()) backoff.step();
      pair.producer.publish();
    }
  });
  std::uint64_t wrong = 0, seen = 0;
  for (Backoff backoff; seen < count;) {
    auto record = pair.consumer.next();
    if (!record || !*record) {
      wrong += !record;
      backoff.step();
      continue;
    }
    std::uint64_t number = 0;
    std::memcpy(&number, (*record)->body.data(), sizeof number);
    wrong += number != seen || (*record)->body.back() != static_cast<std::byte>(seen);
    ++seen;
  }
  writer.join();
  REQUIRE(wrong == 0);
  REQUIRE(pair.consumer.empty());
}

// ---- hostile writers ----

/// Returns a pair whose consumer has read `position` bytes of valid records.
std::unique_ptr<Pair> advanced_to(std::uint64_t position) {
  auto pair = std::make_unique<Pair>();
  while (pair->producer.position() < position) {
    const auto rest = position - pair->producer.position();
    REQUIRE(pair->producer.try_write(1, Bytes(std::min<std::uint64_t>(rest, 4096) - 8)).value());
    pair->producer.publish();
    REQUIRE(pair->consumer.next().value());
  }
  return pair;
}

TEST_CASE("an impossible writer's position is Invalid, whatever the reader's position") {
  for (const std::uint64_t position :
       {std::uint64_t{0}, std::uint64_t{8}, std::uint64_t{ring_bytes - 8}, std::uint64_t{3 * ring_bytes + 64}})
    for (const std::uint64_t lie : {position - 8, position + 1, position + 7, position + ring_bytes + 8,
                                    ~std::uint64_t{0}, ~std::uint64_t{7}, position + (std::uint64_t{1} << 63)}) {
      auto pair = advanced_to(position);
      if (lie == position) continue;
      CAPTURE(position, lie);
      pair->tail = lie;
      REQUIRE(pair->consumer.next().error().code() == Code::invalid);
      REQUIRE(pair->consumer.next().error().code() == Code::invalid);  // stays Invalid
      REQUIRE(pair->head == position);
    }
}

TEST_CASE("an impossible record header is Invalid") {
  constexpr auto max = static_cast<std::uint32_t>(record_bytes_max);
  struct Lie {
    const char* what;
    std::uint64_t position;
    std::uint64_t written;
    RecordHeader header;
  };
  const Lie lie = GENERATE(values<Lie>({
      {"over the limit", 0, ring_bytes, {max + 1, 1, 0}},
      {"far over the limit", 0, ring_bytes, {0xffffffff, 1, 0}},
      {"so long that rounding up wraps", 0, ring_bytes, {0xfffffff9, 1, 0}},
      {"past what was written", 0, 64, {57, 1, 0}},
      {"past what was written by far", 0, 8, {max, 1, 0}},
      {"past the ring's end", ring_bytes - 64, 128, {57, 1, 0}},
      {"with flags", 0, 64, {8, 1, 1}},
      {"padding that ends early", ring_bytes - 64, 128, {8, 0, 0}},
      {"padding past the end", ring_bytes - 64, 128, {64, 0, 0}},
      {"padding of a whole ring", 0, ring_bytes, {ring_bytes - 8, 0, 0}},
      {"padding past what was written", ring_bytes - 64, 8, {56, 0, 0}},
  }));
  CAPTURE(lie.what);
  auto pair = advanced_to(lie.position);
  pair->put_header(lie.position, lie.header);
  pair->tail = lie.position + lie.written;
  REQUIRE(pair->consumer.next().error().code() == Code::invalid);
  REQUIRE(pair->head == lie.position);
}

TEST_CASE("padding alone is skipped and is not a record") {
  auto pair = advanced_to(ring_bytes - 64);
  pair->put_header(ring_bytes - 64, {56, 0, 0});
  pair->tail = ring_bytes;
  REQUIRE_FALSE(pair->consumer.next()->has_value());
  REQUIRE(pair->head == ring_bytes);
}

TEST_CASE("any bytes in the ring and any position: an end, an error, or records within bounds") {
  const auto seed = GENERATE(range(0u, 300u));
  CAPTURE(seed);
  Random random(seed);
  auto pair = advanced_to(random.between(0, ring_bytes / 8) * 8);
  const auto start = pair->head.load();
  for (std::uint64_t at = 0; at < ring_bytes; at += 8) {
    const auto bits = random.bits();
    pair->put_header(at, {static_cast<std::uint32_t>(bits % (random.chance(0.9) ? 200 : 1u << 20)),
                          static_cast<std::uint16_t>(random.chance(0.05) ? 0 : bits >> 40),
                          static_cast<std::uint16_t>(random.chance(0.01))});
  }
  pair->tail = random.chance(0.8) ? start + random.between(0, ring_bytes / 8) * 8 : random.bits();
  for (int i = 0;; ++i) {
    REQUIRE(i < 100'000);
    const auto record = pair->consumer.next();
    if (!record) {
      REQUIRE(record.error().code() == Code::invalid);
      break;
    }
    if (!*record) break;
    REQUIRE((*record)->body.size() <= record_bytes_max);
    REQUIRE((*record)->type != 0);
  }
  REQUIRE(pair->head - start <= ring_bytes);
}

TEST_CASE("the daemon's copy of a record does not change when the client changes the ring") {
  Pair pair;
  REQUIRE(pair.producer.try_write(1, Bytes(100, std::byte{1})).value());
  pair.producer.publish();
  const auto record = pair.consumer.next().value();
  std::memset(pair.ring, 0xff, 1000);
  REQUIRE(copy(record->body) == Bytes(100, std::byte{1}));
}

TEST_CASE("an impossible reader's position is Invalid for the writer, which then writes nothing") {
  for (const std::uint64_t lie :
       {std::uint64_t{1}, ~std::uint64_t{0}, std::uint64_t{8 * ring_bytes}, std::uint64_t{1} << 63}) {
    Pair pair;
    while (pair.producer.try_write(1, Bytes(1000)).value()) {
    }
    const auto before = pair.producer.position();
    pair.head = lie;
    CAPTURE(lie);
    REQUIRE(pair.producer.try_write(1, Bytes(1000)).error().code() == Code::invalid);
    REQUIRE(pair.producer.position() == before);
  }
  // A reader that moves its position back gains nothing either.
  Pair pair;
  while (pair.producer.try_write(1, Bytes(1000)).value()) {
  }
  pair.head = 1008 * 4;
  REQUIRE(pair.producer.try_write(1, Bytes(1000)).value());
  while (pair.producer.try_write(1, Bytes(1000)).value()) {
  }
  pair.head = 1008;
  REQUIRE_FALSE(pair.producer.try_write(1, Bytes(1000)));
  REQUIRE(pair.guards_untouched());
}

}  // namespace
/// Keeps this thread, and those that it starts, on one core.
struct OneCore {
  cpu_set_t before;
  OneCore() {
    ::sched_getaffinity(0, sizeof before, &before);
    cpu_set_t one;
    CPU_ZERO(&one);
    std::size_t first = 0;
    while (!CPU_ISSET(first, &before)) ++first;
    CPU_SET(first, &one);
    ::sched_setaffinity(0, sizeof one, &one);
  }
  ~OneCore() { ::sched_setaffinity(0, sizeof before, &before); }
};

TEST_CASE("brief waits make a waiter poll longer, a long one makes it poll less") {
  using namespace std::chrono_literals;
  const OneCore core;
  const std::jthread other([](const std::stop_token& stop) {
    while (!stop.stop_requested()) std::this_thread::yield();
  });
  Backoff yields;
  while (!yields.gives_way()) yields.step();
  Patience patience;
  const auto patient = patience.spin_max(yields);
  CHECK(patience.spin_max(Backoff()) < patient);
  patience.waited(10s);
  CHECK(patience.spin_max(yields) < patient);
  patience.waited(1us);
  CHECK(patience.spin_max(yields) < patient);
  for (int wait = 0; wait < 20; ++wait) patience.waited(1us);
  CHECK(patience.spin_max(yields) == patient);
}

TEST_CASE("a waiter that has lost a slice by yielding sleeps at once") {
  const OneCore core;
  const std::jthread other([](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
    }
  });
  Backoff yields;
  const Patience patience;
  while (patience.poll_max(yields) > std::chrono::nanoseconds(0)) yields.step();
  CHECK(patience.spin_max(yields) > std::chrono::nanoseconds(0));
}

}  // namespace muster::ipc
