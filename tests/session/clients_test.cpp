// Who is connected: charges, names, and which clients are doomed. No node, no socket.
#include <catch2/catch.hpp>

#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <muster/ipc/ring.hpp>

#include "session/clients.hpp"

using namespace musterd;
using muster::Code;

namespace {

constexpr UserId owner = 100;
constexpr UserId alice = 1;
constexpr UserId bob = 2;

constexpr std::uint64_t plenty = 1000;

Quota quota_of(std::uint64_t descriptors, std::uint64_t maps) {
  Quota quota;
  quota.total = quota.per_user = quota.per_client = {64 << 20, 100, descriptors, 100, 100, 64 << 20, maps};
  return quota;
}

struct World {
  explicit World(std::uint64_t descriptors = plenty, std::uint64_t maps = plenty)
      : ledger(quota_of(descriptors, maps)), clients(ledger, owner, "host") {}
  Client& add(std::uint32_t id, UserId user = alice) {
    REQUIRE(clients.add({id}, {user, static_cast<std::int32_t>(1000 + id)}, {}));
    return *clients.find({id});
  }
  [[nodiscard]] std::uint64_t used(Resource resource) const {
    return ledger.total().used[static_cast<std::size_t>(resource)];
  }
  Ledger ledger;
  Clients clients;
};

}  // namespace

TEST_CASE("a client is charged while it is connected, more once it has rings") {
  World world;
  Client& client = world.add(1);
  const auto asking = world.used(Resource::fds);
  CHECK(asking > 0);
  CHECK(world.used(Resource::memory) == 0);
  REQUIRE(world.clients.charge_rings(client));
  CHECK(world.used(Resource::fds) > asking);
  CHECK(world.used(Resource::memory) == muster::ipc::channel_bytes);
  CHECK(world.used(Resource::maps) == 1);
  world.clients.erase({1});
  CHECK(world.used(Resource::maps) == 0);
  CHECK(world.used(Resource::fds) == 0);
  CHECK(world.used(Resource::memory) == 0);
  CHECK(world.used(Resource::heap) == 0);
  CHECK(world.clients.erased() == 1);
}

TEST_CASE("rings that can't be charged leave the client as it was") {
  const auto [descriptors, maps] = GENERATE(std::pair(std::uint64_t{5}, plenty), std::pair(plenty, std::uint64_t{0}));
  World world(descriptors, maps);
  Client& client = world.add(1);
  const auto before = world.ledger.total().used;
  const auto charged = world.clients.charge_rings(client);
  REQUIRE_FALSE(charged);
  CHECK(charged.error().code() == Code::quota_exceeded);
  client.rings = {};
  CHECK(world.ledger.total().used == before);
}

TEST_CASE("a user's first clients that only ask take no heap, nor do later ones once the first have gone") {
  World world;
  constexpr std::uint32_t free = 8;
  std::uint32_t id = 0;
  const auto add_free = [&](UserId user) {
    const auto before = world.used(Resource::heap);
    world.add(++id, user);
    return world.used(Resource::heap) == before;
  };
  std::uint32_t count = 0;
  while (add_free(alice)) ++count;
  CHECK(count <= free);
  CHECK(count > 1);
  CHECK(add_free(bob));
  for (std::uint32_t each = 1; each <= id; ++each) world.clients.erase({each});
  CHECK(add_free(alice));
}

TEST_CASE("messages name a client, its process, and the child that it forked") {
  World world;
  Client& client = world.add(1);
  client.name = "trainer (pid 1001)";
  CHECK(world.clients.label({0}) == "musterd");
  CHECK(world.clients.label({1}) == "trainer (pid 1001)");
  CHECK(world.clients.label({7}) == "client 7 (gone)");
  CHECK(world.clients.process_text(client) == "pid 1001 on host");
  const ClientId heir = world.clients.next_heir();
  world.clients.add_lifeline(heir, {client.id, {}});
  CHECK(world.clients.label(heir) == "forked child of trainer (pid 1001)");
  CHECK(world.clients.next_heir() != heir);
  world.clients.erase_lifeline(heir);
  CHECK(world.clients.label(heir).find("gone") != std::string::npos);
}

TEST_CASE("names of other users' clients are not told") {
  World world;
  world.add(1, alice).name = "a secret";
  const ClientId heir = world.clients.next_heir();
  world.clients.add_lifeline(heir, {{1}, {}});
  CHECK(world.clients.label({1}, alice) == "a secret");
  CHECK(world.clients.label({1}, std::nullopt) == "a secret");
  CHECK(world.clients.label({1}, bob) == "uid 1");
  CHECK(world.clients.label(heir, bob) == "uid 1");
  world.add(2, bob);
  world.add(3, owner);
  world.add(4, 0);
  CHECK(world.clients.sees_only({2}) == bob);
  CHECK_FALSE(world.clients.sees_only({3}));
  CHECK_FALSE(world.clients.sees_only({4}));
}

TEST_CASE("an exception dooms the client that caused it, and nobody else") {
  World world;
  world.add(1);
  world.add(2);
  CHECK_FALSE(world.clients.tries_again());
  world.clients.guarded([] { throw std::bad_alloc(); }, {2});
  CHECK(world.clients.tries_again());
  CHECK(world.clients.any_doomed());
  CHECK(world.clients.take_doomed() == ClientId{2});
  CHECK_FALSE(world.clients.take_doomed());
  CHECK_FALSE(world.clients.any_doomed());
  // No client caused it, or one that is gone.
  world.clients.guarded([] { throw std::bad_alloc(); });
  world.clients.guarded([] { throw std::bad_alloc(); }, {9});
  CHECK_FALSE(world.clients.take_doomed());
}

TEST_CASE("a doomed client that was half forgotten can be forgotten again") {
  World world;
  Client& client = world.add(1);
  client.gone = true;
  CHECK_FALSE(world.clients.find({1}));
  CHECK(world.clients.known({1}) == &client);
  world.clients.doom({1});
  REQUIRE(world.clients.take_doomed() == ClientId{1});
  CHECK(world.clients.find({1}) == &client);
}
