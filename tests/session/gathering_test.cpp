// The node moves together what a dead client leaves in nearly empty segments, if nobody uses it.
#include <catch2/catch.hpp>

#include <muster/ipc/ring.hpp>

#include "client.hpp"
#include "walk/audit.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using std::chrono::milliseconds;

namespace {

constexpr std::uint64_t mebibyte = 1 << 20;
constexpr std::size_t floats_each = 256;

/// A maker that dies. Each of its segments has one array left, which a reader holds.
struct Estate {
  explicit Estate(int segments, NodeSettings settings = small_settings()) : world(std::move(settings)) {
    leave(maker, reader, segments);
  }
  void leave(TestClient& from, TestClient& to, int segments) {
    for (int i = 0; i < segments; ++i) {
      const auto segment = from.lease(mebibyte);
      for (std::size_t at = 0; at < 10; ++at)
        objects.push_back(from.seal(segment, at * 4096, std::vector<float>(floats_each, static_cast<float>(i))));
      left.push_back(objects[objects.size() - 7]);
      places.push_back(segment);
      to.look_up(left.back(), {{42, static_cast<std::uint32_t>(10 * i + 4)}});
    }
  }
  void maker_dies() {
    maker.die();
    while (world.node.goes_on()) world.go_on();
  }
  std::uint64_t memory() { return reader.status().memory_used_bytes(); }
  [[nodiscard]] ipc::SegmentId place(ipc::ObjectId object) { return reader.describe(object).leaves[0].segment; }
  /// The first element of the object, as the daemon sees it.
  float value(ipc::ObjectId id) {
    const auto object = NodeAudit(world.node).held_object(reader.id(), id);
    float value = -1;
    std::memcpy(&value, host_address(object->place(0)), sizeof value);
    return value;
  }
  void check_values() {
    for (std::size_t i = 0; i < left.size(); ++i) CHECK(value(left[i]) == static_cast<float>(i));
    CHECK(NodeAudit(world.node).contradictions().empty());
  }

  World world;
  TestClient maker{world, 1};
  TestClient reader{world, 2};
  std::vector<ipc::ObjectId> objects;
  std::vector<ipc::ObjectId> left;
  std::vector<ipc::SegmentId> places;
};

}  // namespace

TEST_CASE("objects left in a dead client's segments are moved together, and their readers are told") {
  Estate estate(8);
  estate.reader.map(estate.places[3]);
  const auto before = estate.memory();
  estate.maker_dies();
  CHECK(estate.memory() > 8 * mebibyte);
  REQUIRE(estate.world.node.next_deadline());
  estate.world.advance(milliseconds(100));
  // Mapped memory stays charged until its reader says that it has unmapped it.
  CHECK(estate.reader.count(ipc::CompletionType::segment_gone) == 1);
  estate.reader.record(ipc::SubmissionType::unmapped, ipc::Unmapped{estate.places[3]});
  CHECK(estate.memory() < before - 7 * mebibyte);
  for (std::size_t i = 0; i < 8; ++i) CHECK(estate.place(estate.left[i]) != estate.places[i]);
  estate.check_values();
  CHECK_FALSE(estate.world.node.next_deadline());
}

TEST_CASE("objects of a live client are never moved, nor objects that nearly fill their segment") {
  Estate estate(2);
  for (std::size_t i = 0; i < 10; ++i)
    if (estate.objects[i] != estate.left[0])
      estate.maker.record(ipc::SubmissionType::release, ipc::Release{{estate.objects[i]}});
  estate.world.advance(std::chrono::seconds(10));
  CHECK(estate.place(estate.left[0]) == estate.places[0]);
  // Sixteen objects may keep a mebibyte.
  std::vector<ipc::ObjectId> more;
  for (std::uint64_t i = 0; i < 20; ++i) {
    more.push_back(estate.maker.seal(estate.places[1], mebibyte / 2 + i * 4096, std::vector<float>(floats_each, 1.0F)));
    estate.reader.look_up(more.back(), {{42, 21 + static_cast<std::uint32_t>(i)}});
  }
  estate.maker_dies();
  estate.world.advance(std::chrono::seconds(10));
  CHECK(estate.place(estate.left[0]) != estate.places[0]);
  CHECK(estate.place(estate.left[1]) == estate.places[1]);
  // That ends when more of them end.
  estate.reader.record(ipc::SubmissionType::release, ipc::Release{{more.begin(), more.begin() + 10}});
  estate.world.advance(milliseconds(100));
  CHECK(estate.place(estate.left[1]) != estate.places[1]);
  estate.check_values();
}

TEST_CASE("an object that an op uses is moved when the op is over") {
  Estate estate(2);
  estate.reader.join("g", 0, 2);
  TestClient other(estate.world, 3);
  other.join("g", 1, 2);
  const auto mine = other.seal(other.lease(mebibyte), 0, std::vector<float>(floats_each, 5.0F));
  const auto work = estate.reader.contribute(Kind::allreduce, {estate.left[0]});
  estate.maker_dies();
  for (int i = 0; i < 20; ++i) estate.world.advance(milliseconds(100));
  CHECK(estate.place(estate.left[0]) == estate.places[0]);
  CHECK(estate.place(estate.left[1]) != estate.places[1]);
  other.contribute(Kind::allreduce, {mine});
  REQUIRE(estate.reader.done(work));
  estate.world.advance(std::chrono::seconds(10));
  CHECK(estate.place(estate.left[0]) != estate.places[0]);
  estate.check_values();
}

TEST_CASE("an object that an op takes while it is copied stays, and one that ends meanwhile ends") {
  Estate estate(3);
  estate.world.outside.hold_blocking = true;
  estate.maker_dies();
  estate.world.advance(milliseconds(100));
  REQUIRE(estate.world.outside.blocked.size() == 1);
  estate.reader.join("g", 0, 2);
  estate.reader.contribute(Kind::allreduce, {estate.left[0]});
  estate.reader.record(ipc::SubmissionType::release, ipc::Release{{estate.left[1]}});
  // Only one move at a time.
  estate.world.advance(std::chrono::seconds(10));
  CHECK(estate.world.outside.blocked.size() == 1);
  estate.world.outside.run_blocked();
  CHECK(estate.place(estate.left[0]) == estate.places[0]);
  CHECK(estate.place(estate.left[2]) != estate.places[2]);
  CHECK(estate.value(estate.left[0]) == 0);
  CHECK(estate.value(estate.left[2]) == 2);
  estate.world.outside.hold_blocking = false;
  estate.reader.leave();
  estate.world.advance(std::chrono::seconds(40));
  CHECK(estate.place(estate.left[0]) != estate.places[0]);
}

TEST_CASE("an object without room to move stays, and moves once there is room") {
  auto settings = small_settings();
  const auto memory = static_cast<std::size_t>(Resource::memory);
  settings.quota.total[memory] = 2 * ipc::channel_bytes + 3 * mebibyte;
  Estate estate(2, std::move(settings));
  const auto filler = estate.reader.lease(mebibyte);
  estate.maker_dies();
  // The maker's rings have left some room.
  const auto rings = estate.reader.lease(ipc::channel_bytes);
  estate.world.advance(milliseconds(100));
  CHECK(estate.place(estate.left[0]) == estate.places[0]);
  CHECK(NodeAudit(estate.world.node).contradictions().empty());
  estate.reader.give_back(filler);
  estate.world.advance(std::chrono::seconds(5));
  CHECK(estate.place(estate.left[0]) != estate.places[0]);
  CHECK(estate.place(estate.left[1]) != estate.places[1]);
  estate.check_values();
  estate.reader.give_back(rings);
}

TEST_CASE("one move copies a bounded amount, and the next one goes on") {
  auto settings = small_settings();
  Estate estate(1, std::move(settings));
  const auto large = estate.maker.lease(48 * mebibyte);
  constexpr std::size_t floats_of_a_mebibyte = mebibyte / sizeof(float);
  std::vector<ipc::ObjectId> many;
  for (std::uint64_t i = 0; i < 20; ++i) {
    many.push_back(estate.maker.seal(large, i * mebibyte, std::vector<float>(floats_of_a_mebibyte, 7.0F)));
    estate.reader.look_up(many.back(), {{42, 11 + static_cast<std::uint32_t>(i)}});
  }
  estate.maker_dies();
  const auto moved = [&] {
    return std::count_if(many.begin(), many.end(), [&](const auto id) { return estate.place(id) != large; });
  };
  estate.world.advance(milliseconds(100));
  CHECK(moved() > 0);
  CHECK(moved() <= 8);
  // The others find no room until others have gone.
  estate.reader.record(ipc::SubmissionType::release, ipc::Release{{many.begin() + 12, many.end()}});
  for (int i = 0; i < 50; ++i) estate.world.advance(milliseconds(100));
  many.resize(12);
  CHECK(moved() == 12);
  for (const auto id : many) CHECK(estate.value(id) == 7);
}

TEST_CASE("remains of different users are moved together separately") {
  Estate estate(2);
  TestClient maker(estate.world, 3, 77);
  TestClient reader(estate.world, 4, 77);
  estate.leave(maker, reader, 2);
  maker.die();
  estate.maker_dies();
  estate.world.advance(milliseconds(100));
  std::vector<ipc::SegmentId> now;
  for (std::size_t i = 0; i < 4; ++i) {
    auto& holder = i < 2 ? estate.reader : reader;
    now.push_back(holder.describe(estate.left[i]).leaves[0].segment);
    CHECK(now.back() != estate.places[i]);
  }
  CHECK(now[0] == now[1]);
  CHECK(now[2] == now[3]);
  CHECK(now[0] != now[2]);
  CHECK(NodeAudit(estate.world.node).contradictions().empty());
}

TEST_CASE("an object that a fork inherits while it is copied stays where it is") {
  Estate estate(2);
  estate.world.outside.hold_blocking = true;
  estate.maker_dies();
  estate.world.advance(milliseconds(100));
  REQUIRE(estate.world.outside.blocked.size() == 1);
  estate.reader.fork();
  estate.world.outside.run_blocked();
  CHECK(estate.place(estate.left[0]) == estate.places[0]);
  CHECK(estate.place(estate.left[1]) == estate.places[1]);
  estate.check_values();
}
