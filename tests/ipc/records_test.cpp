// Tests each record's body: what is written reads back the same, and hostile bytes are refused or mean exactly what
// they say. The packed forms are canonical, so an accepted body must come out of its writer byte for byte.
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <muster/ipc/records.hpp>

#include "manifests.hpp"
#include "random.hpp"

namespace muster::ipc {
namespace {

using test::Random, test::random_manifest;
using Bytes = std::vector<std::byte>;

template <class Record>
Bytes packed(const Record& record) {
  Bytes bytes;
  write(record, bytes);
  return bytes;
}

ObjectId random_object(Random& random) { return {random.between(1, ~std::uint64_t{0})}; }

ObjectIds random_objects(Random& random, std::uint64_t count) {
  ObjectIds objects;
  for (std::uint64_t i = 0; i < count; ++i) objects.push_back(random_object(random));
  return objects;
}

template <class Number>
Number random_number(Random& random) {
  return static_cast<Number>(random.bits());
}

std::vector<std::int32_t> random_ranks(Random& random) {
  std::vector<std::int32_t> ranks(random.between(0, 9));
  for (auto& rank : ranks) rank = random_number<std::int32_t>(random);
  return ranks;
}

Capability random_capability(Random& random) { return {{random.bits(), random.bits()}}; }

Error random_error(Random& random) {
  return {static_cast<Code>(random.between(1, 13)), random.text(50), random.text(30), random_ranks(random)};
}

template <class Enum>
Enum random_enumerator(Random& random, std::size_t count) {
  return static_cast<Enum>(random.between(0, count - 1));
}

/// One kind of record: how to make a random body, and how its reader reads a body.
struct Case {
  std::string name;
  std::function<Bytes(Random&)> make;
  /// Writes the value again that the reader returned; nothing if the reader refuses.
  std::function<std::optional<Bytes>(std::span<const std::byte>)> rewritten;
};

template <class Record>
Case record_case(std::string name, Record (*random_record)(Random&),
                 Result<Record> (*read)(std::span<const std::byte>)) {
  return {std::move(name), [=](Random& random) { return packed(random_record(random)); },
          [=](std::span<const std::byte> body) -> std::optional<Bytes> {
            const auto record = read(body);
            if (record) return packed(*record);
            REQUIRE(record.error().code() == Code::invalid);
            REQUIRE_FALSE(record.error().message().empty());
            return std::nullopt;
          }};
}

Seal random_seal(Random& random) {
  Seal seal{random_object(random), random_capability(random), {}, 0, random_manifest(random)};
  if (random.chance(0.3)) seal.parent = random_object(random);
  seal.copied_bytes = random.between(0, seal.manifest.bytes());
  return seal;
}

Contribute random_contribute(Random& random) {
  Contribute contribute;
  contribute.work = {random.between(1, 1000)};
  contribute.seat = {static_cast<std::uint32_t>(random.between(1, 1000))};
  contribute.epoch = random_number<std::uint32_t>(random);
  contribute.kind = random_enumerator<Kind>(random, kind_count);
  contribute.op = random_enumerator<ReduceOp>(random, reduce_op_count);
  contribute.layout = random_enumerator<Layout>(random, layout_count);
  contribute.root = random_number<std::int32_t>(random);
  contribute.tag = random_number<std::int64_t>(random);
  contribute.timeout_ns = random_number<std::int64_t>(random) & INT64_MAX;
  contribute.objects = random_objects(random, random.between(0, 8));
  contribute.key = random.text(40);
  if (random.between(0, 1) == 1)
    contribute.fault = std::make_shared<Error>(static_cast<Code>(random.between(1, code_count)), random.text(40));
  return contribute;
}

Combine random_combine(Random& random) {
  Combine combine;
  combine.work = {random.between(1, 1000)};
  combine.kind = random_enumerator<Kind>(random, kind_count);
  combine.op = random_enumerator<ReduceOp>(random, reduce_op_count);
  combine.layout = random_enumerator<Layout>(random, layout_count);
  combine.root = random_number<std::int32_t>(random);
  combine.timeout_ns = random_number<std::int64_t>(random) & INT64_MAX;
  combine.ranks = static_cast<std::uint32_t>(random.between(1, 5));
  combine.objects = random_objects(random, combine.ranks * random.between(0, 3));
  return combine;
}

Release random_release(Random& random) { return {random_objects(random, random.between(0, 20))}; }
Pin random_pin(Random& random) { return {random_object(random)}; }
SegmentId random_segment(Random& random) { return {static_cast<std::uint32_t>(random.between(1, 1000))}; }
Unmapped random_unmapped(Random& random) { return {random_segment(random)}; }
HandOver random_hand_over(Random& random) { return {random_segment(random)}; }
SegmentGone random_segment_gone(Random& random) { return {random_segment(random)}; }
InPlaceOver random_in_place_over(Random& random) { return {random_segment(random)}; }

MemoryWanted random_memory_wanted(Random& random) { return {random.between(0, 1000)}; }
ObjectGone random_object_gone(Random& random) { return {random_object(random)}; }
Failed random_failed(Random& random) { return {{random.between(1, 1000)}, random_error(random)}; }
SealFailed random_seal_failed(Random& random) { return {random_object(random), random_error(random)}; }

Done random_done(Random& random) {
  Done done;
  done.work = {random.between(1, 1000)};
  done.contributors = random_number<std::uint32_t>(random);
  done.epoch = random_number<std::uint32_t>(random);
  done.seat = {random_number<std::uint32_t>(random)};
  done.rank = random_number<std::int32_t>(random);
  done.world_size = random_number<std::int32_t>(random);
  done.name = random.text(30);
  done.live = random_ranks(random);
  for (auto items = random.between(0, 4); items > 0; --items) {
    Item item{random_object(random), random_capability(random), random.chance(0.8), {}};
    if (item.described) item.manifest = random_manifest(random);
    done.items.push_back(item);
  }
  return done;
}

GroupChanged random_group_changed(Random& random) {
  const SeatId seat{static_cast<std::uint32_t>(random.between(1, 1000))};
  return {seat, random_number<std::uint32_t>(random), random_ranks(random), random_ranks(random)};
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      record_case("seal", random_seal, read_seal),
      record_case("contribute", random_contribute, read_contribute),
      record_case("combine", random_combine, read_combine),
      record_case("release", random_release, read_release),
      record_case("pin", random_pin, read_pin),
      record_case("done", random_done, read_done),
      record_case("failed", random_failed, read_failed),
      record_case("object_gone", random_object_gone, read_object_gone),
      record_case("seal_failed", random_seal_failed, read_seal_failed),
      record_case("group_changed", random_group_changed, read_group_changed),
      record_case("unmapped", random_unmapped, read_unmapped),
      record_case("hand_over", random_hand_over, read_hand_over),
      record_case("segment_gone", random_segment_gone, read_segment_gone),
      record_case("in_place_over", random_in_place_over, read_in_place_over),
      record_case("memory_wanted", random_memory_wanted, read_memory_wanted),
  };
  return all;
}

TEST_CASE("what is written reads back the same, and fills whole 8-byte units") {
  for (const auto& record : cases())
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      CAPTURE(record.name, seed);
      Random random(seed);
      const auto body = record.make(random);
      REQUIRE(body.size() % 8 == 0);
      REQUIRE(record.rewritten(body) == body);
    }
}

TEST_CASE("a writer appends: what was in the buffer stays") {
  for (const auto& record : cases()) {
    CAPTURE(record.name);
    Random random(3), again(3);
    const auto body = record.make(random);
    REQUIRE(body == record.make(again));
  }
  Bytes out(3, std::byte{1});
  write(Pin{{5}}, out);
  REQUIRE(out.size() == 11);
  REQUIRE(read_pin(std::span(out).subspan(3))->object == ObjectId{5});
}

TEST_CASE("a body cut at any length is refused, or is a valid body by itself") {
  for (const auto& record : cases())
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      CAPTURE(record.name, seed);
      Random random(seed);
      const auto body = record.make(random);
      for (std::size_t length = 0; length < body.size(); ++length) {
        const Bytes cut(body.begin(), body.begin() + static_cast<std::ptrdiff_t>(length));
        const auto rewritten = record.rewritten(cut);
        if (record.name == "release" && length % 8 == 0) REQUIRE(rewritten == cut);
        else REQUIRE_FALSE(rewritten);
      }
    }
}

TEST_CASE("a body with any one byte changed is refused or means what it says") {
  for (const auto& record : cases())
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      CAPTURE(record.name, seed);
      Random random(seed);
      const auto body = record.make(random);
      for (std::size_t i = 0; i < body.size(); ++i)
        for (const auto change : {0x01, 0x08, 0x80, 0xff}) {
          auto changed = body;
          changed[i] ^= static_cast<std::byte>(change);
          if (const auto rewritten = record.rewritten(changed)) REQUIRE(*rewritten == changed);
        }
    }
}

TEST_CASE("every 32-bit and 64-bit field set to its extremes is refused or means what it says") {
  for (const auto& record : cases())
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      CAPTURE(record.name, seed);
      Random random(seed);
      const auto body = record.make(random);
      const auto check = [&](std::size_t offset, auto value) {
        auto changed = body;
        if (offset + sizeof value > changed.size()) return;
        std::memcpy(changed.data() + offset, &value, sizeof value);
        if (const auto rewritten = record.rewritten(changed)) REQUIRE(*rewritten == changed);
      };
      for (std::size_t i = 0; i < body.size(); i += 4)
        for (const std::uint32_t value : {0u, 1u, 0x7fffffffu, 0x80000000u, 0xffffffffu, 0xfffffff8u}) check(i, value);
      for (std::size_t i = 0; i < body.size(); i += 8)
        for (const std::uint64_t value : {0ull, 0x7fffffffffffffffull, 0x8000000000000000ull, ~0ull, ~7ull})
          check(i, value);
    }
}

TEST_CASE("random bytes are refused or mean what they say") {
  Random random(99);
  for (int i = 0; i < 2000; ++i) {
    const auto body = random.bytes(random.between(0, 160));
    for (const auto& record : cases())
      if (const auto rewritten = record.rewritten(body)) REQUIRE(*rewritten == body);
  }
}

// ---- what each record must not say ----

TEST_CASE("a seal may not lack an id, be its own parent, or claim more copies than bytes") {
  Seal seal{{1}, {}, {}, 40, test::plain_manifest(10)};
  REQUIRE(read_seal(packed(seal)));
  seal.copied_bytes = 41;
  REQUIRE(read_seal(packed(seal)).error().message().find("more bytes were copied than there are") != std::string::npos);
  seal.copied_bytes = 0;
  seal.parent = {1};
  REQUIRE_FALSE(read_seal(packed(seal)));
  seal.parent = {};
  seal.object = {};
  REQUIRE_FALSE(read_seal(packed(seal)));
}

TEST_CASE("a contribution needs a work, a seat, objects with ids, and bounds on time and key") {
  Contribute good;
  good.work = {1};
  good.seat = {1};
  good.objects = {{5}};
  REQUIRE(read_contribute(packed(good)));
  const auto refuses = [&](auto change) {
    auto changed = good;
    change(changed);
    return !read_contribute(packed(changed)).ok();
  };
  REQUIRE(refuses([](Contribute& c) { c.work = {}; }));
  REQUIRE(refuses([](Contribute& c) { c.seat = {}; }));
  REQUIRE(refuses([](Contribute& c) { c.objects = {{0}}; }));
  REQUIRE(refuses([](Contribute& c) { c.timeout_ns = -1; }));
  REQUIRE(refuses([](Contribute& c) { c.key = std::string(key_bytes_max + 1, 'k'); }));
  REQUIRE(refuses([](Contribute& c) { c.kind = static_cast<Kind>(kind_count); }));
  REQUIRE(refuses([](Contribute& c) { c.op = static_cast<ReduceOp>(reduce_op_count); }));
  REQUIRE(refuses([](Contribute& c) { c.layout = static_cast<Layout>(layout_count); }));
  REQUIRE_FALSE(refuses([](Contribute& c) { c.key = std::string(key_bytes_max, 'k'); }));
  REQUIRE(refuses(
      [](Contribute& c) { c.fault = std::make_shared<Error>(static_cast<Code>(code_count + 1), "no such code"); }));
}

TEST_CASE("the reason why a rank has no input travels with its contribution, cut to its bound") {
  Contribute contribute;
  contribute.work = {1};
  contribute.seat = {1};
  contribute.key = "key";
  contribute.fault = std::make_shared<Error>(Code::out_of_memory, std::string(5000, 'm'));
  const auto read = read_contribute(packed(contribute));
  REQUIRE(read);
  REQUIRE(read->key == "key");
  REQUIRE(read->fault);
  REQUIRE(read->fault->code() == Code::out_of_memory);
  REQUIRE(read->fault->message() == std::string(fault_bytes_max, 'm'));
}

TEST_CASE("a release names no more objects than the daemon releases in one turn") {
  std::vector<std::byte> body;
  write(Release{ObjectIds(Release::objects_max, ObjectId{1})}, body);
  CHECK(read_release(body));
  body.clear();
  write(Release{ObjectIds(Release::objects_max + 1, ObjectId{1})}, body);
  const auto refused = read_release(body);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::invalid);
}

TEST_CASE("a combine's ranks all give the same number of objects") {
  Combine combine{{1}, Kind::allreduce, ReduceOp::sum, Layout::parts, 0, 0, 2, {{5}, {6}}};
  REQUIRE(read_combine(packed(combine)));
  combine.objects.push_back({7});
  REQUIRE_FALSE(read_combine(packed(combine)));
  combine.ranks = 0;
  REQUIRE_FALSE(read_combine(packed(combine)));
}

TEST_CASE("an error's text and ranks are cut to what fits in a ring, its code must be known") {
  const std::vector<int> ranks(error_ranks_max + 5, 3);
  const Failed failed{{1}, Error(Code::peer_lost, std::string(100'000, 'm'), std::string(100'000, 'h'), ranks)};
  const auto body = packed(failed);
  REQUIRE(body.size() <= 40'000);
  const auto read = read_failed(body);
  REQUIRE(read);
  REQUIRE(read->error.ranks().size() == error_ranks_max);
  REQUIRE(read->error.message().starts_with("mmm"));
  REQUIRE_FALSE(read_failed(packed(Failed{{1}, Error(static_cast<Code>(0), "")})));
  REQUIRE_FALSE(read_failed(packed(Failed{{1}, Error(static_cast<Code>(14), "")})));
}

TEST_CASE("an outcome without a manifest says so") {
  Done done;
  done.work = {1};
  done.items.push_back({{9}, {{1, 2}}, false, {}});
  const auto read = read_done(packed(done));
  REQUIRE(read);
  REQUIRE_FALSE(read->items.front().described);
  REQUIRE(read->items.front().capability == Capability{{1, 2}});
}

TEST_CASE("every kind has a name of its own") {
  for (std::size_t a = 0; a < kind_count; ++a)
    for (std::size_t b = 0; b < a; ++b) REQUIRE(name(static_cast<Kind>(a)) != name(static_cast<Kind>(b)));
  REQUIRE(name(Kind::barrier) == "barrier");
  REQUIRE(name(Kind::reduce_scatter) == "reduce_scatter");
  REQUIRE(name(Kind::reform) == "reform");
}

}  // namespace
}  // namespace muster::ipc
