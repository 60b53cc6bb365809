#include <catch2/catch.hpp>

#include <type_traits>

#include "ipc/random.hpp"
#include "memory/ledger.hpp"
#include "memory/quotas.hpp"

using namespace musterd;
using namespace musterd::testing;
using Catch::Matchers::Contains;
using muster::Code;

namespace {

constexpr auto memory = Resource::memory;
constexpr Payer first{1000, {1}};
constexpr Payer second{1000, {2}};
constexpr Payer stranger{2000, {3}};
constexpr Payer results{1000, {}};

// A limit that is left out would be zero, and everything of that resource would be refused.
static_assert(std::is_constructible_v<Amounts, int, int, int, int, int, int, int>);
static_assert(!std::is_constructible_v<Amounts, int, int, int, int, int, int>);

std::string client_text(ClientId client) { return "client " + std::to_string(client.value); }

}  // namespace

TEST_CASE("a charge counts for its client, its user and the daemon until it ends") {
  Ledger ledger(memory_quota(100 * mebibyte));
  {
    auto charge = ledger.charge(first, memory, 3 * mebibyte);
    auto of_results = ledger.charge(results, memory, 2 * mebibyte);
    REQUIRE(charge);
    REQUIRE(of_results);
    CHECK(ledger.client({1}).used[0] == 3 * mebibyte);
    CHECK(ledger.user(1000).used[0] == 5 * mebibyte);
    CHECK(ledger.user(2000).used[0] == 0);
    CHECK(ledger.total().used[0] == 5 * mebibyte);
    of_results->reset();
    CHECK(ledger.user(1000).memory_peak == 5 * mebibyte);
  }
  CHECK(holds_nothing(ledger));
  CHECK(ledger.client({1}).used == Amounts{});
  CHECK(ledger.total().memory_peak == 5 * mebibyte);
  CHECK(ledger.memory_releases() == 2);
}

TEST_CASE("nothing is kept for a payer that holds nothing any more") {
  Ledger ledger(memory_quota(mebibyte));
  for (UserId user = 0; user < 100; ++user) {
    const Payer client{user, {user + 1}};
    const Payer of_results{user, {}};
    for (const Payer payer : {client, of_results}) {
      CHECK(ledger.charge(payer, memory, mebibyte));
      CHECK_FALSE(ledger.charge(payer, memory, 2 * mebibyte));
      CHECK_FALSE(ledger.charge_small(payer, 2 * mebibyte));
      CHECK(ledger.charge(payer, memory, 0));
      CHECK(ledger.has_room(payer, memory, mebibyte));
      CHECK_FALSE(ledger.has_room(payer, memory, 2 * mebibyte));
    }
    CHECK(ledger.users() == 0);
  }
  CHECK(ledger.largest_users(10).empty());
}

TEST_CASE("a list of many users begins with those that hold the most memory") {
  Ledger ledger(memory_quota(mebibyte));
  std::vector<Charge> charges;
  for (const UserId user : {3u, 1u, 4u, 2u, 5u}) {
    auto charge = ledger.charge({user, {user}}, memory, user == 5 ? 1 : 10 * user);
    REQUIRE(charge);
    charges.push_back(std::move(*charge));
  }
  auto others = ledger.charge({6, {6}}, Resource::fds, 1);
  std::vector<UserId> told;
  for (const auto& each : ledger.largest_users(4)) told.push_back(each.user);
  CHECK(told == std::vector<UserId>{4, 3, 2, 1});
  CHECK(ledger.largest_users(4).front().account.used[0] == 40);
  CHECK(ledger.largest_users(10).size() == 6);
  CHECK(ledger.users() == 6);
}

TEST_CASE("a moved charge is given back once") {
  Ledger ledger(memory_quota(mebibyte));
  auto made = ledger.charge(first, Resource::fds, 2);
  REQUIRE(made);
  Charge moved = std::move(*made);
  made->reset();
  CHECK(ledger.total().used[2] == 2);
  auto other = ledger.charge(first, Resource::fds, 5);
  REQUIRE(other);
  moved = std::move(*other);
  CHECK(ledger.total().used[2] == 5);
  moved.reset();
  CHECK(holds_nothing(ledger));
}

TEST_CASE("a full daemon is OutOfMemory, and the ledger knows who holds what") {
  Ledger ledger(memory_quota(100 * mebibyte));
  auto large = ledger.charge(first, memory, 60 * mebibyte);
  auto small = ledger.charge(stranger, memory, 10 * mebibyte);
  auto of_results = ledger.charge(results, memory, 30 * mebibyte);
  auto refused = ledger.charge(second, memory, 11 * mebibyte);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::out_of_memory);
  CHECK_THAT(refused.error().message(), Contains("100 MiB of 100 MiB"));
  CHECK_THAT(refused.error().message(), !Contains("client"));
  CHECK(ledger.holders_of_memory(client_text) == "client 1: 60 MiB, results of user 1000: 30 MiB, client 3: 10 MiB");
  CHECK_THAT(refused.error().message(), Contains("11 MiB more"));
  CHECK_FALSE(refused.error().hint().empty());
  CHECK(ledger.client({2}).used == Amounts{});
}

TEST_CASE("only the largest holders are named, and the others are counted") {
  Ledger ledger(memory_quota(100 * mebibyte));
  std::vector<Charge> charges;
  for (std::uint32_t client = 1; client <= 6; ++client)
    charges.push_back(std::move(ledger.charge({1, {client}}, memory, client * mebibyte).value()));
  CHECK_THAT(ledger.holders_of_memory(client_text, 2),
             Contains("client 6") && Contains("client 5") && Contains("4 more"));
  CHECK_THAT(ledger.holders_of_memory(client_text, 2), !Contains("client 4"));
  charges.clear();
  CHECK(ledger.holders_of_memory(client_text) == "nobody");
}

TEST_CASE("shares of clients and users are quotas, not reasons to wait") {
  Ledger ledger(memory_quota(100 * mebibyte, 50 * mebibyte, 30 * mebibyte));
  auto one = ledger.charge(first, memory, 25 * mebibyte);
  REQUIRE(one);
  auto of_client = ledger.charge(first, memory, 6 * mebibyte);
  REQUIRE_FALSE(of_client);
  CHECK(of_client.error().code() == Code::quota_exceeded);
  CHECK_THAT(of_client.error().message(), Contains("client 1 holds 25 MiB of at most 30 MiB"));
  auto of_user = ledger.charge(second, memory, 26 * mebibyte);
  REQUIRE_FALSE(of_user);
  CHECK(of_user.error().code() == Code::quota_exceeded);
  CHECK_THAT(of_user.error().message(), Contains("user 1000 holds 25 MiB of at most 50 MiB"));
  CHECK(ledger.charge(stranger, memory, 26 * mebibyte));
  CHECK(ledger.charge(first, memory, 5 * mebibyte));
}

TEST_CASE("a request that can never fit fails at once") {
  Ledger ledger(memory_quota(100 * mebibyte, 100 * mebibyte, 30 * mebibyte));
  CHECK(ledger.possible(first, memory, 30 * mebibyte));
  REQUIRE_FALSE(ledger.possible(first, memory, 30 * mebibyte + 1));
  CHECK(ledger.possible(first, memory, 30 * mebibyte + 1).error().code() == Code::quota_exceeded);
  CHECK(ledger.possible(results, memory, 100 * mebibyte));
  REQUIRE_FALSE(ledger.possible(results, memory, ~std::uint64_t{0}));
  CHECK(ledger.possible(results, memory, ~std::uint64_t{0}).error().code() == Code::out_of_memory);
  CHECK_FALSE(ledger.charge(first, memory, ~std::uint64_t{0}));
  CHECK(holds_nothing(ledger));
}

TEST_CASE("objects and descriptors are bounded like memory") {
  Quota quota = memory_quota(mebibyte);
  quota.total[1] = 4;
  quota.per_client[1] = 2;
  Ledger ledger(quota);
  auto one = ledger.charge(first, Resource::objects, 2);
  auto too_many = ledger.charge(first, Resource::objects, 1);
  REQUIRE_FALSE(too_many);
  CHECK(too_many.error().code() == Code::quota_exceeded);
  CHECK_THAT(too_many.error().message(), Contains("2 objects"));
  auto two = ledger.charge(second, Resource::objects, 2);
  auto none_left = ledger.charge(results, Resource::objects, 1);
  REQUIRE_FALSE(none_left);
  CHECK(none_left.error().code() == Code::quota_exceeded);
}

TEST_CASE("mappings are bounded for a client, a user and all, and the refusal says which and what to try") {
  constexpr auto maps = static_cast<std::size_t>(Resource::maps);
  Quota quota = memory_quota(mebibyte);
  quota.total[maps] = 8;
  quota.per_user[maps] = 6;
  quota.per_client[maps] = 4;
  Ledger ledger(quota);
  std::vector<Charge> charges;
  const auto fill = [&](Payer payer) {
    for (;;) {
      auto charge = ledger.charge(payer, Resource::maps, 1);
      if (!charge) return charge.error();
      charges.push_back(std::move(*charge));
    }
  };
  for (const auto& [payer, said] :
       {std::pair(first, "client 1 holds 4 of at most 4 memory mappings; the request asks for 1 more"),
        std::pair(second, "user 1000 holds 6 of at most 6 memory mappings"),
        std::pair(stranger, "the daemon holds 8 of at most 8 memory mappings")}) {
    const auto refused = fill(payer);
    CHECK(refused.code() == Code::quota_exceeded);
    CHECK_THAT(refused.message(), Contains(said));
    CHECK_THAT(refused.hint(), Contains("vm.max_map_count") && Contains("--maps-max"));
  }
  CHECK(charges.size() == 8);
  charges.clear();
  CHECK(holds_nothing(ledger));
}

TEST_CASE("large requests leave the reserve alone, and small ones use it when there is nothing else") {
  Quota quota = memory_quota(100 * mebibyte);
  quota.reserve_bytes = 16 * mebibyte;
  Ledger ledger(quota);
  auto early = ledger.charge_small(second, mebibyte);
  REQUIRE(early);
  CHECK(ledger.total().small_bytes == 0);
  auto large = ledger.charge(first, memory, 83 * mebibyte);
  REQUIRE(large);
  CHECK(ledger.charge(stranger, memory, 1).error().code() == Code::out_of_memory);
  auto small = ledger.charge_small(first, mebibyte);
  REQUIRE(small);
  CHECK(ledger.total().small_bytes == mebibyte);
  CHECK(ledger.total().used[0] == 85 * mebibyte);
  std::vector<Charge> held;
  while (auto more = ledger.charge_small(first, mebibyte)) held.push_back(std::move(*more));
  CHECK(held.size() == 1);  // one client gets an eighth of it
  large->reset();
  CHECK_FALSE(ledger.charge(first, memory, 84 * mebibyte));
  CHECK(ledger.charge(first, memory, 83 * mebibyte));
}

TEST_CASE("a small request that overtakes others takes only reserve, and no client or user takes all of it") {
  Quota quota = memory_quota(100 * mebibyte);
  quota.reserve_bytes = 16 * mebibyte;
  Ledger ledger(quota);
  auto full = ledger.charge(stranger, memory, 84 * mebibyte);
  REQUIRE(full);
  std::vector<Charge> held;
  const auto take = [&](Payer payer) {
    auto charge = ledger.charge_small(payer, mebibyte, Turn::before_others);
    if (charge) held.push_back(std::move(*charge));
    return charge.ok();
  };
  int of_one = 0;
  while (take(first)) ++of_one;
  CHECK(of_one == 2);  // an eighth
  int of_others = 0;
  for (std::uint32_t client = 100; take({first.user, {client}}); ++client) ++of_others;
  CHECK(of_one + of_others == 8);  // half
  CHECK(take(stranger));
  // This holds even if there is plenty of other memory: that is for the requests that wait.
  full->reset();
  CHECK_FALSE(take(second));
  CHECK(ledger.charge_small(second, mebibyte));
}

TEST_CASE("the sums are right after any sequence of charges") {
  const auto seed = GENERATE(range<std::uint64_t>(1, 9));
  INFO("seed " << seed);
  muster::ipc::test::Random random(seed);
  Ledger ledger(memory_quota(1000, 700, 400));
  struct Held {
    Payer payer;
    Charge charge;
  };
  std::vector<Held> held;
  std::uint64_t peak = 0;
  for (int step = 0; step < 2000; ++step) {
    if (random.chance(0.55)) {
      const Payer payer{static_cast<UserId>(random.between(1, 2)), {static_cast<std::uint32_t>(random.between(0, 3))}};
      const auto amount = random.between(0, 120);
      std::uint64_t of_total = 0;
      std::uint64_t of_user = 0;
      std::uint64_t of_client = 0;
      for (const auto& one : held) {
        of_total += one.charge.amount();
        if (one.payer.user == payer.user) of_user += one.charge.amount();
        if (one.payer.client == payer.client) of_client += one.charge.amount();
      }
      const bool fits =
          of_total + amount <= 1000 && of_user + amount <= 700 && (!payer.client || of_client + amount <= 400);
      auto charge = ledger.charge(payer, memory, amount);
      REQUIRE(charge.ok() == fits);
      if (charge) held.push_back({payer, std::move(*charge)});
      if (fits) peak = std::max(peak, of_total + amount);
    } else if (!held.empty()) {
      std::swap(held[random.between(0, held.size() - 1)], held.back());
      held.pop_back();
    }
    std::uint64_t sum = 0;
    for (const auto& one : held) sum += one.charge.amount();
    REQUIRE(ledger.total().used[0] == sum);
  }
  CHECK(ledger.total().memory_peak == peak);
  held.clear();
  CHECK(holds_nothing(ledger));
}

TEST_CASE("a refusal says whose limit it was") {
  using Of = Ledger::Shortage::Of;
  Quota quota = memory_quota(16 * mebibyte, 8 * mebibyte, 4 * mebibyte);
  Ledger ledger(quota);
  CHECK_FALSE(ledger.take_shortage());
  const auto held = ledger.charge({1, {1}}, Resource::memory, 3 * mebibyte);
  REQUIRE(held);
  CHECK_FALSE(ledger.take_shortage());

  CHECK_FALSE(ledger.charge({1, {1}}, Resource::memory, 2 * mebibyte));
  auto shortage = ledger.take_shortage();
  REQUIRE(shortage);
  CHECK(shortage->of == Of::client);
  CHECK(shortage->resource == Resource::memory);
  CHECK_FALSE(ledger.take_shortage());  // told once

  const auto more = ledger.charge({1, {}}, Resource::memory, 4 * mebibyte);
  REQUIRE(more);
  CHECK_FALSE(ledger.has_room({1, {2}}, Resource::memory, 2 * mebibyte));
  CHECK(ledger.take_shortage()->of == Of::user);

  const auto of_other = ledger.charge({2, {}}, Resource::memory, 8 * mebibyte);
  REQUIRE(of_other);
  CHECK_FALSE(ledger.charge({3, {}}, Resource::memory, 2 * mebibyte));
  CHECK(ledger.take_shortage()->of == Of::daemon);

  // No end of others' would make room for this one.
  CHECK_FALSE(ledger.charge({3, {}}, Resource::memory, 9 * mebibyte));
  CHECK(ledger.take_shortage()->of == Of::nobody);
}

TEST_CASE("who has used up its part of the reserve is short of it, and not the daemon") {
  Quota quota = memory_quota(64 * mebibyte);
  quota.reserve_bytes = 16 * mebibyte;
  Ledger ledger(quota);
  std::vector<Charge> held;
  const auto take = [&] {
    auto charge = ledger.charge_small(first, mebibyte / 4, Turn::before_others);
    if (charge) held.push_back(std::move(*charge));
    return bool(charge);
  };
  while (take()) CHECK(held.size() < 100);
  const auto shortage = ledger.take_shortage();
  REQUIRE(shortage);
  CHECK(shortage->of == Ledger::Shortage::Of::user);
  CHECK(ledger.charge(second, memory, 32 * mebibyte));
}
