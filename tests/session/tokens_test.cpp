// Tokens, as clients use them: objects that live as long as something that Muster does not know.
#include <catch2/catch.hpp>

#include "client.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;

namespace {

constexpr std::uint64_t segment_bytes = 64 << 10;
constexpr ipc::Capability first_capability{{42, 1}};

/// A client that opens tokens, as the owner of what they stand for, and one that makes objects.
struct OwnerAndMaker {
  ipc::ObjectId make() { return maker.seal(segment, 0, {1, 2, 3}); }
  void release(ipc::ObjectId object) { maker.record(ipc::SubmissionType::release, ipc::Release{{object}}); }
  /// What `muster ls` shows of the only object.
  std::vector<std::string> holders() {
    const auto& objects = owner.objects();
    REQUIRE(objects.size() == 1);
    std::vector<std::string> found;
    for (const auto* holder : *objects[0]->holders()) found.push_back(holder->str());
    return found;
  }

  World world;
  TestClient owner{world, 1, 1000};
  TestClient maker{world, 2, 1000};
  ipc::SegmentId segment = maker.lease(segment_bytes);
};

}  // namespace

TEST_CASE("an object lives under a token after its maker has released it, and goes with the token", "[tokens]") {
  OwnerAndMaker world;
  world.owner.open_token("ray 12ab");
  REQUIRE(world.owner.reply().body_type() == wire::Body_Ok);
  const auto object = world.make();
  world.maker.keep_for("ray 12ab", object);
  REQUIRE(world.maker.reply().body_type() == wire::Body_Ok);
  world.release(object);
  CHECK(world.holders() == std::vector<std::string>{"token 'ray 12ab'"});
  world.owner.look_up(object, first_capability);
  REQUIRE(world.owner.reply().body_as_Object());
  world.owner.record(ipc::SubmissionType::release, ipc::Release{{object}});
  world.owner.end_token("ray 12ab");
  CHECK(world.owner.objects().size() == 0);
  CHECK(world.maker.count(ipc::CompletionType::object_gone) == 1);
}

TEST_CASE("an object under a token outlives its maker's process", "[tokens]") {
  OwnerAndMaker world;
  world.owner.open_token("t");
  world.maker.keep_for("t", world.make());
  world.maker.die();
  CHECK(world.holders() == std::vector<std::string>{"token 't'"});
  SECTION("until the token ends") { world.owner.end_token("t"); }
  SECTION("until the process is gone that would end it") {
    world.owner.die();
    while (world.world.node.goes_on()) world.world.go_on();
  }
  TestClient looks{world.world, 3, 1000};
  CHECK(looks.objects().size() == 0);
}

TEST_CASE("a token that has ended keeps nothing: whoever comes late is told", "[tokens]") {
  OwnerAndMaker world;
  world.owner.open_token("t");
  world.owner.end_token("t");
  world.maker.keep_for("t", world.make());
  CHECK(world.maker.failure() == Code::invalid);
}

TEST_CASE("what a client may not do with tokens", "[tokens]") {
  OwnerAndMaker world;
  TestClient stranger{world.world, 3, 2000};
  const auto object = world.make();
  world.owner.open_token("t");
  SECTION("another user knows no such token") {
    stranger.end_token("t");
    CHECK(stranger.failure() == Code::invalid);
    stranger.open_token("t");
    CHECK(stranger.reply().body_type() == wire::Body_Ok);
  }
  SECTION("an object that the client does not hold") {
    stranger.open_token("s");
    stranger.keep_for("s", object);
    CHECK(stranger.failure() == Code::object_lost);
    world.owner.keep_for("t", object);
    CHECK(world.owner.failure() == Code::denied);
  }
  SECTION("an object that never was") {
    world.owner.keep_for("t", {12345});
    CHECK(world.owner.failure() == Code::object_lost);
  }
  SECTION("a name that is taken") {
    world.maker.open_token("t");
    CHECK(world.maker.failure() == Code::invalid);
  }
  SECTION("names that are none") {
    for (const auto& name : {std::string(), std::string(300, 'x'), std::string("a\nb"), std::string("\xff")}) {
      world.owner.open_token(name);
      CHECK(world.owner.failure() == Code::invalid);
      world.owner.end_token(name);
      CHECK(world.owner.failure() == Code::invalid);
    }
  }
  SECTION("more tokens than its share of the heap pays for") {
    int opened = 0;
    for (;; ++opened) {
      world.owner.open_token("many " + std::to_string(opened));
      if (!world.owner.reply().body_as_Ok()) break;
      REQUIRE(opened < 1'000'000);
    }
    CHECK(world.owner.failure() == Code::quota_exceeded);
    world.owner.die();
    while (world.world.node.goes_on()) world.world.go_on();
    world.maker.open_token("t");
    CHECK(world.maker.reply().body_type() == wire::Body_Ok);
  }
}

TEST_CASE("another user's result can't be put under a token", "[tokens]") {
  World world;
  TestClient first{world, 1, 1000};
  TestClient second{world, 2, 2000};
  first.join("open", 0, 2, muster::OnLoss::fail, true);
  second.join("open", 1, 2, muster::OnLoss::fail, true);
  const auto of_first = first.seal(first.lease(segment_bytes), 0, {1});
  const auto of_second = second.seal(second.lease(segment_bytes), 0, {2});
  first.contribute(ipc::Kind::allreduce, {of_first});
  const auto work = second.contribute(ipc::Kind::allreduce, {of_second});
  const auto done = second.done(work);
  REQUIRE(done);
  second.open_token("t");
  second.keep_for("t", done->items[0].object);
  CHECK(second.failure() == Code::denied);
}
