// What happens while a request waits for memory. No node, no socket.
#include <catch2/catch.hpp>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "memory/backings.hpp"
#include "recorder.hpp"
#include "session/memory_pressure.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Error;
using muster::Result;
using muster::ipc::CompletionType;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr std::uint64_t budget = 1 << 20;

Quota quota() {
  Quota quota;
  quota.total = quota.per_user = quota.per_client = {budget, 100, 100, 100, 100, 8 << 20, 100};
  return quota;
}

struct World {
  Client& add(std::uint32_t id, UserId user = 1) {
    REQUIRE(clients.add({id}, {user, static_cast<std::int32_t>(id)}, {}));
    Client& client = *clients.find({id});
    client.greeted = true;
    return client;
  }
  [[nodiscard]] Charge take(std::uint32_t id, std::uint64_t bytes) {
    auto charge = ledger.charge({1, {id}}, Resource::memory, bytes);
    REQUIRE(charge);
    return std::move(*charge);
  }
  /// The client waits for `bytes`, for a second.
  void wait(std::uint32_t id, std::uint64_t bytes) {
    static_cast<void>(admission.request(
        {1, {id}}, Admission::Size::large, now + seconds(1),
        [this, id, bytes](Turn) -> Result<void> {
          ++attempts;
          return pressure.try_quietly([&]() -> Result<void> {
            auto charge = ledger.charge({1, {id}}, Resource::memory, bytes);
            if (!charge) return charge.error();
            served.push_back(std::move(*charge));
            return {};
          });
        },
        [](const Error&) {}));
  }
  void after_event() {
    pressure.serve(now);
    pressure.ask_clients(now);
  }
  [[nodiscard]] std::size_t asked(std::uint32_t id) {
    std::size_t count = 0;
    for (const auto& completion : outside.take({id})) count += completion.type == CompletionType::memory_wanted ? 1 : 0;
    return count;
  }

  TimePoint now{seconds(1000)};
  Recorder outside;
  Ledger ledger{quota()};
  SegmentTable segments{ledger, backing()};
  ResultPool results{segments, 8};
  Store store{ledger, segments, {}, 1};
  History history{ledger, {}};
  Admission admission{100};
  Clients clients{ledger, 0, ""};
  Teller teller{clients, outside};
  MemoryPressure pressure{{budget, seconds(600)},
                          {ledger, segments, results, store, history, admission, clients, teller, outside}};
  std::vector<Charge> served;
  int attempts = 0;
};

}  // namespace

TEST_CASE("a waiting request is tried again when memory comes back, and not before") {
  World world;
  world.add(1);
  world.add(2);
  auto most = world.take(1, budget);
  world.wait(2, budget / 2);
  world.after_event();
  const int before = world.attempts;
  for (int i = 0; i < 10; ++i) world.after_event();
  CHECK(world.attempts == before);
  CHECK(world.served.empty());
  most.reset();
  CHECK(world.pressure.has_news());
  world.after_event();
  CHECK(world.served.size() == 1);
  CHECK_FALSE(world.pressure.has_news());
}

TEST_CASE("clients are asked once for memory that they don't use, and see for a while that others wait") {
  World world;
  world.add(1);
  world.add(2);
  world.add(3).greeted = false;
  auto most = world.take(1, budget);
  world.wait(2, budget / 2);
  for (int i = 0; i < 5; ++i) world.after_event();
  CHECK(world.asked(1) == 1);
  CHECK(world.asked(2) == 1);
  CHECK(world.asked(3) == 0);
  CHECK(world.outside.memory_wanted);
  // As long as a request waits, however long that is.
  world.now += seconds(1);
  world.pressure.tick(world.now);
  CHECK(world.outside.memory_wanted);
  most.reset();
  world.after_event();
  const auto until = world.pressure.next_deadline();
  REQUIRE(until);
  world.now = std::max(world.now, *until);
  world.pressure.tick(world.now);
  CHECK_FALSE(world.outside.memory_wanted);
  CHECK_FALSE(world.pressure.next_deadline());
}

TEST_CASE("memory that a vain attempt takes and gives back triggers no retry") {
  World world;
  world.add(1);
  const auto vain = [&]() -> Result<void> {
    world.take(1, budget / 2).reset();
    return Error(Code::out_of_memory, "not enough");
  };
  CHECK_FALSE(world.pressure.try_quietly(vain));
  CHECK_FALSE(world.pressure.has_news());
  // An attempt that succeeds, and gives something back meanwhile, does.
  CHECK(
      world.pressure.try_quietly([&]() -> Result<void> { return world.take(1, budget / 2).reset(), Result<void>(); }));
  CHECK(world.pressure.has_news());
}

TEST_CASE("an error of a full store names who holds it, to others only their user") {
  World world;
  world.add(1, 1).name = "trainer";
  const auto most = world.take(1, budget);
  const Error full(Code::out_of_memory, "no room", "wait");
  const auto told = world.pressure.with_holders(full, std::nullopt, world.now).message();
  CHECK(told.find("no room; the largest holders are trainer") == 0);
  const auto to_others = world.pressure.with_holders(full, UserId{2}, world.now).message();
  CHECK(to_others.find("trainer") == std::string::npos);
  CHECK(to_others.find("uid 1") != std::string::npos);
  const Error other(Code::invalid, "wrong");
  CHECK(world.pressure.with_holders(other, std::nullopt, world.now).message() == "wrong");
}
