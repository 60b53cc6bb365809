#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "memory/client_side.hpp"
#include "memory/quotas.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
namespace ipc = muster::ipc;

namespace {

constexpr Payer owner{1000, {1}};
constexpr Payer other{1000, {2}};
constexpr std::uint64_t page = 4096;
constexpr auto heap = static_cast<std::size_t>(Resource::heap);
constexpr auto maps = static_cast<std::size_t>(Resource::maps);
constexpr std::uint64_t segment_heap = SegmentTable::segment_heap_bytes;
constexpr std::uint64_t reader_bytes = SegmentTable::reader_bytes;

struct World {
  Ledger ledger{memory_quota(64 * mebibyte)};
  SegmentTable table{ledger, backing()};
};

template <class T>
Code code_of(const muster::Result<T>& result) {
  REQUIRE_FALSE(result);
  return result.error().code();
}

}  // namespace

TEST_CASE("a lease is whole pages, charged in full, with its descriptor and its books, before anything is touched") {
  World world;
  auto segment = world.table.lease(owner, {page + 1});
  REQUIRE(segment);
  CHECK((*segment)->bytes() == 2 * page);
  CHECK((*segment)->state() == Segment::State::leased);
  CHECK(world.ledger.client({1}).used == Amounts{2 * page, 0, 1, 0, 0, segment_heap, 1});
  CHECK(world.table.size() == 1);
}

TEST_CASE("a segment that the heap has no room for is refused, and nothing stays charged for it") {
  Quota quota = memory_quota(64 * mebibyte);
  quota.per_client[heap] = 2 * segment_heap;
  Ledger ledger(quota);
  SegmentTable table(ledger, backing());
  const std::uint64_t bytes = GENERATE(std::uint64_t{page}, small_segment_bytes_max + page);
  REQUIRE(table.lease(owner, {bytes}));
  const auto second = (*table.lease(owner, {bytes}))->id();
  const auto before = ledger.total().used;
  CHECK(code_of(table.lease(owner, {bytes})) == Code::quota_exceeded);
  CHECK(ledger.total().used == before);
  CHECK(table.lease(other, {bytes}));
  REQUIRE(table.give_back(owner.client, second));
  CHECK(table.lease(owner, {bytes}));
}

TEST_CASE("impossible sizes are refused") {
  World world;
  CHECK(code_of(world.table.lease(owner, {0})) == Code::invalid);
  CHECK(code_of(world.table.lease(owner, {~std::uint64_t{0}})) == Code::invalid);
  CHECK(code_of(world.table.lease(owner, {65 * mebibyte})) == Code::out_of_memory);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("the daemon reads what the client writes, and only after the client has mapped it") {
  World world;
  auto segment = world.table.lease(owner, {page});
  const auto id = (*segment)->id();
  CHECK((*segment)->data() == nullptr);
  CHECK(code_of(world.table.readable(id, owner.user)) == Code::invalid);
  CHECK(code_of(world.table.owned(id, owner.client)) == Code::invalid);
  const auto mapping = WriterMapping::map(**segment, (*segment)->descriptors());
  REQUIRE(seal_now(world.table.mapped(owner.client, id)));
  std::memcpy(mapping.data() + 100, "hello", 6);
  CHECK(std::string(reinterpret_cast<const char*>((*segment)->data()) + 100) == "hello");
  CHECK(world.table.readable(id, owner.user));
  CHECK(world.table.owned(id, owner.client));
  CHECK(code_of(seal_now(world.table.mapped(owner.client, id))) == Code::invalid);
}

TEST_CASE("a segment is its writer's, readable to its user, and nobody else's") {
  World world;
  const auto leased = lease_and_map(world.table, owner, page);
  const auto id = leased.segment->id();
  CHECK(code_of(seal_now(world.table.mapped(other.client, id))) == Code::denied);
  CHECK(code_of(seal_now(world.table.hard_seal(other.client, id))) == Code::denied);
  CHECK(code_of(world.table.owned(id, other.client)) == Code::denied);
  CHECK(code_of(world.table.give_back(other.client, id)) == Code::denied);
  CHECK(code_of(world.table.give_back({}, id)) == Code::denied);
  CHECK(world.table.readable(id, other.user));
  CHECK(code_of(world.table.readable(id, 2000)) == Code::denied);
  CHECK(code_of(world.table.readable({77}, owner.user)) == Code::invalid);
}

TEST_CASE("a client that resizes its segment before it is sealed is refused", "[memfd]") {
  World world;
  const auto change = GENERATE(std::uint64_t{0}, page, 3 * page, 32 * mebibyte);
  auto segment = world.table.lease(owner, {2 * page});
  REQUIRE(::ftruncate((*segment)->descriptors().front(), static_cast<off_t>(change)) == 0);
  CHECK(code_of(seal_now(world.table.mapped(owner.client, (*segment)->id()))) == Code::invalid);
  CHECK((*segment)->state() == Segment::State::leased);
  CHECK(code_of(world.table.readable((*segment)->id(), owner.user)) == Code::invalid);
}

TEST_CASE("a client that seals by itself only harms itself", "[memfd]") {
  World world;
  auto segment = world.table.lease(owner, {page});
  REQUIRE(::fcntl((*segment)->descriptors().front(), F_ADD_SEALS, F_SEAL_SEAL) == 0);
  CHECK_FALSE(seal_now(world.table.mapped(owner.client, (*segment)->id())));
  CHECK(code_of(world.table.readable((*segment)->id(), owner.user)) == Code::invalid);
}

TEST_CASE("a hard lease holds objects only once nobody can write it") {
  World world;
  auto leased = lease_and_map(world.table, owner, page, true);
  const auto id = leased.segment->id();
  CHECK(code_of(world.table.owned(id, owner.client)) == Code::invalid);
  CHECK(code_of(seal_now(world.table.hard_seal(owner.client, id))) == Code::invalid);  // it is still mapped for writing
  std::memcpy(leased.mapping.data(), "fixed", 6);
  leased.mapping.unmap();
  REQUIRE(seal_now(world.table.hard_seal(owner.client, id)));
  CHECK(leased.segment->state() == Segment::State::hard);
  CHECK(world.table.owned(id, owner.client));
  CHECK(std::string(reinterpret_cast<const char*>(leased.segment->data())) == "fixed");
  CHECK(code_of(seal_now(world.table.hard_seal(owner.client, id))) == Code::invalid);
}

TEST_CASE("an ordinary lease can't be sealed hard") {
  World world;
  auto leased = lease_and_map(world.table, owner, page);
  leased.mapping.unmap();
  CHECK(code_of(seal_now(world.table.hard_seal(owner.client, leased.segment->id()))) == Code::invalid);
}

TEST_CASE("a segment goes back when nothing lies in it, and its charge with it") {
  World world;
  auto leased = lease_and_map(world.table, owner, page);
  const auto id = leased.segment->id();
  CHECK(code_of(world.table.give_back(owner.client, id)) == Code::invalid);  // `leased` stands for an object
  leased.segment.reset();
  REQUIRE(world.table.give_back(owner.client, id));
  CHECK(holds_nothing(world.ledger));
  CHECK(world.table.find(id) == nullptr);
  CHECK(world.table.size() == 0);
  CHECK(code_of(world.table.give_back(owner.client, id)) == Code::denied);
}

TEST_CASE("a dead client's segment stays charged until the last object in it goes") {
  World world;
  auto kept = lease_and_map(world.table, owner, page);
  REQUIRE(world.table.lease(owner, {5 * page}));
  REQUIRE(world.table.lease(other, {7 * page}));
  world.table.drop_client(owner.client);
  CHECK(world.ledger.client(owner.client).used[0] == page);
  CHECK(world.ledger.client(other.client).used[0] == 7 * page);
  CHECK(world.table.readable(kept.segment->id(), owner.user));
  CHECK(code_of(world.table.owned(kept.segment->id(), owner.client)) == Code::denied);
  kept.segment.reset();
  CHECK(world.ledger.client(owner.client).used[0] == 0);
}

TEST_CASE("many segments of a dead client end a few in each turn") {
  World world;
  constexpr std::size_t leases = 500;
  std::vector<SegmentPtr> kept;
  for (std::size_t i = 0; i < leases; ++i) {
    auto segment = world.table.lease(owner, {page});
    REQUIRE(segment);
    if (i % 100 == 0) kept.push_back(*segment);
  }
  const auto of_other = *world.table.lease(other, {page});
  world.table.drop_client(owner.client);
  CHECK(world.table.size() > leases / 2);
  int turns = 0;
  for (; world.table.drops() && turns < 100; ++turns) {
    const std::size_t before = world.table.size();
    world.table.drop_more();
    CHECK(before - world.table.size() <= SegmentTable::drops_of_turn);
  }
  CHECK(turns > 2);
  CHECK(world.table.size() == kept.size() + 1);
  CHECK(world.ledger.client(owner.client).used[0] == kept.size() * page);
  CHECK(world.table.find(of_other->id()));
  kept.clear();
  CHECK(world.ledger.client(owner.client).used == Amounts{});
}

TEST_CASE("a segment that the daemon may not map any more is refused, and nothing stays charged for it") {
  Quota quota = memory_quota(64 * mebibyte);
  quota.per_client[maps] = 2;
  quota.per_user[maps] = 3;
  Ledger ledger(quota);
  SegmentTable table(ledger, backing());
  const std::uint64_t bytes = GENERATE(std::uint64_t{page}, small_segment_bytes_max + page);
  REQUIRE(table.lease(owner, {bytes}));
  const auto second = (*table.lease(owner, {bytes}))->id();
  const auto result = table.book_result(owner.user, bytes);
  REQUIRE(result);
  const auto before = ledger.total().used;
  CHECK(code_of(table.lease(owner, {bytes})) == Code::quota_exceeded);
  CHECK(code_of(table.book_result(owner.user, bytes)) == Code::quota_exceeded);
  CHECK(ledger.total().used == before);
  CHECK(table.lease({2000, {3}}, {bytes}));
  REQUIRE(table.give_back(owner.client, second));
  CHECK(table.lease(owner, {bytes}));
}

TEST_CASE("result segments are sealed from birth, charged to the user, and belong to no client") {
  World world;
  auto result = result_segment(world.table, 1000, page);
  CHECK(result->state() == Segment::State::ready);
  CHECK(world.ledger.user(1000).used == Amounts{page, 0, 1, 0, 0, segment_heap, 1});
  std::memset(result->data(), 7, page);
  CHECK(code_of(world.table.owned(result->id(), owner.client)) == Code::denied);
  CHECK(code_of(world.table.owned(result->id(), {})) == Code::denied);
  CHECK(code_of(world.table.give_back({}, result->id())) == Code::denied);
  const auto id = result->id();
  world.table.drop_client(owner.client);
  CHECK(world.table.find(id));
  result.reset();
  world.table.drop_result(id);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a result segment that is only booked is charged, and nobody reads it") {
  World world;
  auto booked = world.table.book_result(1000, page);
  REQUIRE(booked);
  CHECK((*booked)->data() == nullptr);
  CHECK_FALSE((*booked)->memory());
  CHECK((*booked)->descriptors().empty());
  CHECK(world.ledger.user(1000).used == Amounts{page, 0, 1, 0, 0, segment_heap, 1});
  const auto id = (*booked)->id();
  CHECK(code_of(world.table.readable(id, 1000)) == Code::invalid);
  SECTION("and gets memory later") {
    REQUIRE(world.table.make_result(*booked));
    std::memset((*booked)->data(), 7, page);
    CHECK(world.table.readable(id, 1000));
  }
  SECTION("and is dropped as if it had never been") {
    booked = muster::Error(Code::failed, "");
    world.table.drop_result(id);
    CHECK(world.table.size() == 0);
    CHECK((*world.table.book_result(1000, page))->id() == id);
  }
}

TEST_CASE("ids are never used twice and ended segments are forgotten") {
  World world;
  std::uint32_t last = 0;
  for (int i = 0; i < 1000; ++i) {
    auto segment = world.table.lease(owner, {page});
    REQUIRE(segment);
    const auto id = (*segment)->id();
    CHECK(id.value > last);
    last = id.value;
    segment->reset();
    REQUIRE(world.table.give_back(owner.client, id));
    CHECK(world.table.take_ended().empty());
  }
  CHECK(world.table.size() == 0);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("stretches outside a segment are detected, even overflowing ones") {
  World world;
  auto segment = world.table.lease(owner, {page});
  CHECK((*segment)->contains(0, page));
  CHECK((*segment)->contains(page, 0));
  CHECK_FALSE((*segment)->contains(1, page));
  CHECK_FALSE((*segment)->contains(page + 1, 0));
  CHECK_FALSE((*segment)->contains(~std::uint64_t{0}, 2));
  CHECK_FALSE((*segment)->contains(2, ~std::uint64_t{0}));
}

namespace {

std::vector<SegmentPtr> results(SegmentTable& table, std::size_t count) {
  std::vector<SegmentPtr> segments;
  for (std::size_t i = 0; i < count; ++i) segments.push_back(result_segment(table, owner.user, page));
  return segments;
}

}  // namespace

TEST_CASE("a reader of more than a few segments is charged for each, once") {
  Quota quota = memory_quota(mebibyte);
  quota.per_client[heap] = reader_bytes;
  Ledger ledger(quota);
  SegmentTable table(ledger, backing());
  auto segments = results(table, SegmentTable::readers_free + 1);
  const auto last = result_segment(table, owner.user, page);
  const std::uint64_t before = ledger.total().used[heap];
  for (int twice = 0; twice < 2; ++twice)
    for (const auto& segment : segments) REQUIRE(table.add_reader(segment, other));
  const auto refused = table.add_reader(last, other);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::quota_exceeded);
  CHECK(ledger.total().used[heap] == before + reader_bytes);
  table.unmapped(other.client, segments.front()->id());
  CHECK(table.add_reader(last, other));
  table.drop_client(other.client);
  CHECK(ledger.total().used[heap] == before);
}

TEST_CASE("a client may read another segment for nothing as soon as it has unmapped one") {
  Quota quota = memory_quota(mebibyte);
  quota.per_client[heap] = 0;
  Ledger ledger(quota);
  SegmentTable table(ledger, backing());
  auto segments = results(table, SegmentTable::readers_free);
  const auto last = result_segment(table, owner.user, page);
  for (const auto& segment : segments) REQUIRE(table.add_reader(segment, other));
  REQUIRE_FALSE(table.add_reader(last, other));
  CHECK(table.add_reader(last, {owner.user, {3}}));
  const auto id = segments.back()->id();
  SECTION("one that is there") {}
  SECTION("one that has ended") {
    segments.pop_back();
    table.drop_result(id);
    REQUIRE_FALSE(table.add_reader(last, other));
  }
  table.unmapped(other.client, id);
  CHECK(table.add_reader(last, other));
}

TEST_CASE("a segment stays charged until its last reader has unmapped it or is gone") {
  World world;
  const auto id = [&] {
    auto side = lease_and_map(world.table, owner, page);
    REQUIRE(world.table.add_reader(side.segment, other));
    REQUIRE(world.table.add_reader(side.segment, {owner.user, {3}}));
    REQUIRE(world.table.add_reader(side.segment, owner));
    REQUIRE(world.table.take_ended().empty());
    return side.segment->id();
  }();
  world.table.drop_client(owner.client);
  const auto ended = world.table.take_ended();
  REQUIRE(ended.size() == 1);
  CHECK(ended.front().segment == id);
  CHECK(ended.front().readers == std::vector<ClientId>{other.client, {3}});
  CHECK(world.table.take_ended().empty());
  CHECK(world.ledger.total().used == Amounts{page, 0, 0, 0, 0, segment_heap + 2 * reader_bytes, 0});
  world.table.unmapped({3}, id);
  world.table.unmapped({3}, id);
  world.table.unmapped({4}, id);
  CHECK_FALSE(holds_nothing(world.ledger));
  SECTION("unmapped") { world.table.unmapped(other.client, id); }
  SECTION("gone") { world.table.drop_client(other.client); }
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a segment that is handed over ends with its last object, and takes no new ones") {
  World world;
  auto side = lease_and_map(world.table, owner, page);
  const auto id = side.segment->id();
  CHECK(code_of(world.table.hand_over(other.client, id)) == Code::denied);
  REQUIRE(world.table.add_reader(side.segment, owner));
  REQUIRE(world.table.hand_over(owner.client, id));
  CHECK_FALSE(world.table.owned(id, owner.client));
  CHECK_FALSE(world.table.hand_over(owner.client, id));
  CHECK(world.table.readable(id, owner.user));
  CHECK_FALSE(holds_nothing(world.ledger));
  side.segment.reset();
  CHECK(world.table.take_ended().empty());
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a segment that nobody else has read ends when its writer says so") {
  World world;
  {
    auto side = lease_and_map(world.table, owner, page);
    REQUIRE(world.table.add_reader(side.segment, owner));
    const auto id = side.segment->id();
    side.segment.reset();
    REQUIRE(world.table.give_back(owner.client, id));
  }
  CHECK(world.table.take_ended().empty());
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("while a segment is being sealed it is neither ready nor mapped again") {
  World world;
  auto segment = world.table.lease(owner, {8192});
  REQUIRE(segment);
  const auto id = (*segment)->id();
  auto sealing = world.table.mapped(owner.client, id);
  REQUIRE(sealing);
  CHECK(code_of(seal_now(world.table.mapped(owner.client, id))) == Code::invalid);
  CHECK(code_of(world.table.readable(id, owner.user)) == Code::invalid);
  CHECK(code_of(world.table.owned(id, owner.client)) == Code::invalid);
  sealing->work();
  // The writer may have gone when the seals are done.
  segment = muster::Error(Code::failed, "");
  world.table.drop_client(owner.client);
  CHECK(sealing->finish());
  sealing = muster::Error(Code::failed, "");
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("a segment stays charged until its remains are disposed of") {
  Ledger ledger(memory_quota(64 << 20));
  std::vector<std::function<void()>> disposed;
  SegmentTable table(ledger, backing(), {.mapped = {}, .dispose = [&](UserId, Remains, std::function<void()> then) {
                                           disposed.push_back(std::move(then));
                                         }});
  const auto id = result_segment(table, 1000, 1 << 20)->id();
  table.drop_result(id);
  CHECK(table.size() == 0);
  CHECK(ledger.total().used[0] == 1 << 20);
  CHECK(ledger.total().used[maps] == 1);
  REQUIRE(disposed.size() == 1);
  disposed.front()();
  disposed.clear();
  CHECK(holds_nothing(ledger));
}

TEST_CASE("the daemon's mapping of a segment is charged only as long as it lasts, even if clients still map it") {
  World world;
  const auto id = [&] {
    auto side = lease_and_map(world.table, owner, page);
    REQUIRE(world.table.add_reader(side.segment, other));
    return side.segment->id();
  }();
  CHECK(world.ledger.client(owner.client).used[maps] == 1);
  world.table.drop_client(owner.client);
  CHECK(world.ledger.client(owner.client).used[maps] == 0);
  CHECK(world.ledger.client(owner.client).used[0] == page);
  world.table.unmapped(other.client, id);
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("sealing whose work failed says so, and may be tried again") {
  World world;
  auto leased = lease_and_map(world.table, owner, 8192, true);
  auto hard = world.table.hard_seal(owner.client, leased.segment->id());
  REQUIRE(hard);
  CHECK(code_of(hard->finish()) == Code::out_of_memory);
  CHECK(leased.segment->state() == Segment::State::ready);
  auto segment = world.table.lease(owner, {8192});
  REQUIRE(segment);
  auto sealing = world.table.mapped(owner.client, (*segment)->id());
  REQUIRE(sealing);
  CHECK(code_of(sealing->finish()) == Code::out_of_memory);
  CHECK((*segment)->state() == Segment::State::leased);
  CHECK(seal_now(world.table.mapped(owner.client, (*segment)->id())));
}
