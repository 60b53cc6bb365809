#include <catch2/catch.hpp>

#include "memory/quotas.hpp"
#include "store/entries.hpp"
#include "store/tokens.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

constexpr UserId user = 1000;
constexpr Payer owner{user, {7}};  // who opens tokens
constexpr Payer other{user, {8}};
constexpr Payer stranger{user + 1, {9}};

struct TokenWorld {
  /// An object that only the token keeps.
  StoreEntry& kept_for(std::string_view token) {
    const auto object = entries.make();
    REQUIRE(tokens.keep(user, token, object));
    return *object->entry;
  }

  Entries entries;
  Ledger ledger{memory_quota(mebibyte)};
  Pickles pickles{std::chrono::minutes(10)};
  Tokens tokens{ledger, pickles};
};

}  // namespace

TEST_CASE("a token keeps its objects until it ends") {
  TokenWorld world;
  REQUIRE(world.tokens.open(owner, "t"));
  StoreEntry& first = world.kept_for("t");
  StoreEntry& second = world.kept_for("t");
  CHECK(std::get<Holder::Token>(first.holders.first(10, start).front().by).name == "t");
  REQUIRE(world.tokens.end(user, "t"));
  CHECK_FALSE(lives(first));
  CHECK_FALSE(lives(second));
  CHECK(first.end_reason == std::string("freed: the token that kept it ended"));
  CHECK_FALSE(world.tokens.goes_on());
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("an object of several tokens lives until the last of them ends") {
  TokenWorld world;
  REQUIRE(world.tokens.open(owner, "one"));
  REQUIRE(world.tokens.open(other, "two"));
  StoreEntry& entry = world.kept_for("one");
  REQUIRE(world.tokens.keep(user, "two", entry.weak.lock()));
  REQUIRE(world.tokens.end(user, "one"));
  CHECK(lives(entry));
  REQUIRE(world.tokens.end(user, "two"));
  CHECK_FALSE(lives(entry));
}

TEST_CASE("to keep an object twice is the same as once") {
  TokenWorld world;
  REQUIRE(world.tokens.open(owner, "t"));
  StoreEntry& entry = world.kept_for("t");
  const auto paid = world.ledger.client(owner.client).used[Resource::heap];
  REQUIRE(world.tokens.keep(user, "t", entry.weak.lock()));
  CHECK(world.ledger.client(owner.client).used[Resource::heap] == paid);
  CHECK(entry.holders.holds.size() == 1);
  REQUIRE(world.tokens.end(user, "t"));
  CHECK_FALSE(lives(entry));
}

TEST_CASE("names are a user's own, and one of a kind") {
  TokenWorld world;
  REQUIRE(world.tokens.open(owner, "t"));
  CHECK(error_of(world.tokens.open(other, "t")).message() == "a token 't' is open already");
  REQUIRE(world.tokens.open(stranger, "t"));
  StoreEntry& entry = world.kept_for("t");
  REQUIRE(world.tokens.end(stranger.user, "t"));
  CHECK(lives(entry));
  REQUIRE(world.tokens.end(user, "t"));
  REQUIRE(world.tokens.open(other, "t"));
  world.tokens.drop_client(other.client);
}

TEST_CASE("a token that has ended keeps nothing more, and can't end again") {
  TokenWorld world;
  REQUIRE(world.tokens.open(owner, "t"));
  REQUIRE(world.tokens.end(user, "t"));
  const auto object = world.entries.make();
  const auto refused = error_of(world.tokens.keep(user, "t", object));
  CHECK(refused.code() == Code::invalid);
  CHECK(refused.message() == "no token 't' is open: it has ended, or nobody opened it");
  CHECK(object->entry->holders.holds.empty());
  CHECK(code_of(world.tokens.end(user, "t")) == Code::invalid);
  CHECK(code_of(world.tokens.end(user, "\x01\x02")) == Code::invalid);
}

TEST_CASE("the tokens of a client that is gone end, and their names are free") {
  TokenWorld world;
  REQUIRE(world.tokens.open(owner, "one"));
  REQUIRE(world.tokens.open(owner, "two"));
  REQUIRE(world.tokens.open(other, "three"));
  StoreEntry& one = world.kept_for("one");
  StoreEntry& three = world.kept_for("three");
  world.tokens.drop_client(owner.client);
  CHECK_FALSE(lives(one));
  CHECK(lives(three));
  CHECK(code_of(world.tokens.keep(user, "two", three.weak.lock())) == Code::invalid);
  REQUIRE(world.tokens.open(other, "one"));
  world.tokens.drop_client(other.client);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("the opener pays for a token and what it keeps, and may be refused") {
  constexpr std::uint64_t heap = 4096;
  Entries entries;
  Quota quota = memory_quota(mebibyte);
  quota.total[Resource::heap] = quota.per_user[Resource::heap] = quota.per_client[Resource::heap] = heap;
  Ledger ledger{quota};
  Pickles pickles{std::chrono::minutes(10)};
  Tokens tokens{ledger, pickles};
  REQUIRE(tokens.open(owner, "t"));
  CHECK(ledger.client(owner.client).used[Resource::heap] > 0);
  std::size_t kept = 0;
  ObjectPtr refused;
  while (!refused) {
    const auto object = entries.make();
    if (tokens.keep(user, "t", object)) ++kept;
    else refused = object;
  }
  CHECK(kept > 5);
  CHECK(kept < 50);
  CHECK(refused->entry->holders.holds.empty());
  CHECK(code_of(tokens.open(owner, "another")) == Code::quota_exceeded);
  CHECK(code_of(tokens.keep(user, "another", refused)) == Code::invalid);
  REQUIRE(tokens.end(user, "t"));
  CHECK(holds_nothing(ledger));
}

TEST_CASE("a pickle lease and a token keep an object side by side") {
  TokenWorld world;
  REQUIRE(world.tokens.open(owner, "t"));
  const auto object = world.entries.make();
  StoreEntry& entry = *object->entry;
  entry.strong = object;
  world.pickles.pin(entry, start);
  world.pickles.count(entry);
  CHECK(world.pickles.bytes() == 100);
  REQUIRE(world.tokens.keep(user, "t", object));
  CHECK(world.pickles.bytes() == 0);
  REQUIRE(world.tokens.end(user, "t"));
  CHECK(lives(entry));
  CHECK(world.pickles.bytes() == 100);
  world.pickles.expire(start + std::chrono::minutes(10));
  CHECK_FALSE(entry.strong);
}

TEST_CASE("very many objects and tokens end in pieces") {
  constexpr int many = 1200;
  Quota quota = memory_quota(mebibyte);
  quota.total[Resource::heap] = quota.per_user[Resource::heap] = quota.per_client[Resource::heap] = 16 * mebibyte;
  Entries entries;
  Ledger ledger{quota};
  Pickles pickles{std::chrono::minutes(10)};
  Tokens tokens{ledger, pickles};
  const auto pieces = [&] {
    int count = 1;
    for (; tokens.goes_on(); ++count) tokens.go_on();
    return count;
  };
  SECTION("objects of one token") {
    REQUIRE(tokens.open(owner, "t"));
    std::vector<StoreEntry*> all;
    for (int i = 0; i < many; ++i) {
      const auto object = entries.make();
      REQUIRE(tokens.keep(user, "t", object));
      all.push_back(object->entry);
    }
    REQUIRE(tokens.end(user, "t"));
    CHECK(lives(*all.back()));
    // The name is free although objects are left.
    REQUIRE(tokens.open(other, "t"));
    CHECK(pieces() == 3);
    CHECK(std::ranges::none_of(all, [](const auto* entry) { return lives(*entry); }));
    REQUIRE(tokens.end(user, "t"));
  }
  SECTION("tokens of one client") {
    for (int i = 0; i < many; ++i) REQUIRE(tokens.open(owner, std::to_string(i)));
    tokens.drop_client(owner.client);
    // One that is still there keeps nothing more, and its name is free for others.
    const std::string last = std::to_string(many - 1);
    CHECK(code_of(tokens.end(user, last)) == Code::invalid);
    const auto object = entries.make();
    CHECK(code_of(tokens.keep(user, last, object)) == Code::invalid);
    REQUIRE(tokens.open(other, last));
    REQUIRE(tokens.keep(user, last, object));
    CHECK(pieces() >= 2);
    CHECK(object->entry->strong);
    REQUIRE(tokens.end(user, last));
    CHECK_FALSE(object->entry->strong);
  }
  CHECK(holds_nothing(ledger));
}
