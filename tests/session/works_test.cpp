// Pending works: each ticket is settled once, with one outcome. No node, no socket.
#include <catch2/catch.hpp>

#include <map>
#include <random>
#include <vector>

#include <muster/ipc/records.hpp>

#include "memory/backings.hpp"
#include "recorder.hpp"
#include "session/works.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Error;
using muster::ipc::CompletionType;

namespace {

Quota quota() {
  Quota quota;
  quota.total = quota.per_user = quota.per_client = {64 << 20, 1000, 1000, 1000, 100, 64 << 20, 1000};
  return quota;
}

struct World {
  void add(std::uint32_t id) { REQUIRE(clients.add({id}, {1, static_cast<std::int32_t>(id)}, {})); }
  [[nodiscard]] Ticket pend(std::uint32_t client, std::uint64_t work) {
    return works.add({{client}, {work}, {}, nullptr, {}});
  }
  Recorder outside;
  Ledger ledger{quota()};
  SegmentTable segments{ledger, backing()};
  Store store{ledger, segments, {}, 1};
  Clients clients{ledger, 0, ""};
  Teller teller{clients, outside};
  Works works{clients, teller, store, outside, 1};
};

}  // namespace

TEST_CASE("a ticket is settled once") {
  World world;
  world.add(1);
  const Ticket ticket = world.pend(1, 7);
  REQUIRE(world.works.find(ticket));
  world.works.settle_done(ticket, {});
  CHECK_FALSE(world.works.find(ticket));
  world.works.settle_failed(ticket, Error(Code::timeout, "late"));
  world.works.settle_done(ticket, {});
  const auto told = world.outside.take({1});
  REQUIRE(told.size() == 1);
  CHECK(told[0].type == CompletionType::done);
}

TEST_CASE("a client that is gone is told nothing, and its ticket ends") {
  World world;
  world.add(1);
  const Ticket ticket = world.pend(1, 7);
  CHECK(world.works.waiting(ticket));
  world.clients.erase({1});
  CHECK_FALSE(world.works.waiting(ticket));
  CHECK(world.works.find(ticket));
  world.works.settle_done(ticket, {});
  CHECK(world.works.size() == 0);
  CHECK(world.outside.take({1}).empty());
}

TEST_CASE("a client's work is found by its number, and works of other clients are not") {
  World world;
  world.add(1);
  world.add(2);
  static_cast<void>(world.pend(1, 7));
  CHECK(world.works.find({1}, {7}));
  CHECK_FALSE(world.works.find({2}, {7}));
  CHECK_FALSE(world.works.find({1}, {8}));
  // Works with the same lower half, or the same number again, get their outcomes, but can't be asked about.
  const std::uint64_t same_half = 7 + (std::uint64_t{1} << 32);
  const Ticket second = world.pend(1, same_half);
  const Ticket third = world.pend(1, 7);
  CHECK(second != third);
  CHECK_FALSE(world.works.find({1}, {same_half}));
  world.works.settle_done(second, {});
  world.works.settle_done(third, {});
  CHECK(world.outside.take({1}).size() == 2);
  CHECK(world.works.find({1}, {7}));
}

TEST_CASE("a client whose work gets no outcome is ended") {
  World world;
  world.add(1);
  const Ticket ticket = world.pend(1, 7);
  world.works.cut_off(ticket);
  CHECK_FALSE(world.works.find(ticket));
  CHECK(world.clients.take_doomed() == ClientId{1});
  world.works.cut_off(ticket);
  CHECK_FALSE(world.clients.take_doomed());
}

TEST_CASE("whatever the order of events, each work with a waiting client is told exactly once") {
  std::mt19937 random(11);
  World world;
  constexpr std::uint32_t clients = 5;
  std::map<std::uint32_t, std::size_t> due;
  std::vector<std::pair<Ticket, std::uint32_t>> pending;
  for (std::uint32_t id = 1; id <= clients; ++id) world.add(id);
  for (int step = 0; step < 5000; ++step) {
    const auto id = static_cast<std::uint32_t>(1 + random() % clients);
    if (random() % 2 == 0) {
      pending.emplace_back(world.pend(id, random() % 50), id);
      continue;
    }
    if (pending.empty()) continue;
    const std::size_t at = random() % pending.size();
    const auto [ticket, client] = pending[at];
    pending[at] = pending.back();
    pending.pop_back();
    ++due[client];
    if (random() % 2 == 0) world.works.settle_done(ticket, {});
    else world.works.settle_failed(ticket, Error(Code::peer_lost, "gone"));
  }
  CHECK(world.works.size() == pending.size());
  for (std::uint32_t id = 1; id <= clients; ++id) CHECK(world.outside.take({id}).size() == due[id]);
}
