// What the node keeps in its own memory for somebody it charges to somebody: no less than that takes, and not much
// more.
#include <catch2/catch.hpp>

#include <malloc.h>

#include <cstdio>
#include <functional>

#include "client.hpp"
#include "walk/audit.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;

namespace {

constexpr auto heap = static_cast<std::size_t>(Resource::heap);

NodeSettings large_settings() {
  auto settings = small_settings();
  constexpr std::uint64_t memory = std::uint64_t{1} << 30;
  constexpr std::uint64_t plenty = 1 << 20;
  settings.quota.total = settings.quota.per_user =
      settings.quota.per_client = {memory, plenty, plenty, plenty, plenty, memory};
  settings.in_flight_max = plenty;
  settings.seats_max = plenty;
  return settings;
}

/// Bytes that malloc has given out.
std::uint64_t allocated() {
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

/// Does something over and over, and compares what malloc gave out with what was charged.
class Comparison {
 public:
  explicit Comparison(World& world) : world_(world) {
    forget_what_was_told();
    charged_ = charged();
    allocated_ = allocated();
  }

  void after(int times, const char* what, const std::function<void(int)>& act) {
    for (int i = 0; i < times; ++i) {
      act(i);
      if (i % 61 == 0 || i + 1 == times) compare();
    }
    std::printf("%-40s %8.0f bytes each, charged %8.0f, at worst %+ld\n", what, double(taken()) / times,
                double(charged() - charged_) / times, worst_);
    CHECK(taken() > 0);
  }
  std::int64_t taken() const { return static_cast<std::int64_t>(allocated() - allocated_); }

 private:
  void forget_what_was_told() {
    world_.outside.completions.clear();
    world_.outside.frames.clear();
  }
  [[nodiscard]] std::uint64_t charged() const { return NodeAudit(world_.node).charged()[heap]; }
  void compare() {
    forget_what_was_told();
    worst_ = std::max(worst_, taken() - static_cast<std::int64_t>(charged() - charged_));
  }
  World& world_;
  std::uint64_t charged_;
  std::uint64_t allocated_;
  std::int64_t worst_ = INT64_MIN;
};

}  // namespace

TEST_CASE("what the node keeps is charged") {
  World world(large_settings());
  TestClient alice(world, 1);
  TestClient bob(world, 2);
  const auto segment = alice.lease(1 << 20);
  std::vector<ipc::ObjectId> ids;
  ids.reserve(100'000);
  SECTION("objects") {
    Comparison(world).after(30'000, "objects", [&](int) { alice.seal(segment, 0, {1}); });
  }
  SECTION("holds") {
    for (int i = 0; i < 30'000; ++i) ids.push_back(alice.seal(segment, 0, {1}));
    Comparison(world).after(30'000, "holds", [&](int i) {
      bob.look_up(ids[static_cast<std::size_t>(i)], {{42, static_cast<std::uint64_t>(i) + 1}});
    });
  }
  SECTION("ops by order") {
    alice.join("g", 0, 2);
    Comparison(world).after(30'000, "pending ops of 2", [&](int) { alice.contribute(Kind::barrier); });
  }
  SECTION("ops by order of many") {
    alice.join("g", 0, 1024);
    Comparison(world).after(30'000, "pending ops of 1024", [&](int) { alice.contribute(Kind::barrier); });
  }
  SECTION("ops by key") {
    alice.join("g", 0, 2);
    Comparison(world).after(10'000, "pending ops by short keys", [&](int i) {
      alice.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), std::to_string(i));
    });
  }
  SECTION("ops by key of many") {
    alice.join("g", 0, 1024);
    Comparison(world).after(10'000, "pending ops by key of 1024", [&](int i) {
      alice.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), std::to_string(i));
    });
  }
  SECTION("ops by long keys") {
    alice.join("g", 0, 2);
    const std::string key(4000, 'k');
    Comparison(world).after(10'000, "pending ops by long keys", [&](int i) {
      alice.contribute(Kind::barrier, {}, 0, std::chrono::seconds(30), key + std::to_string(i));
    });
  }
  SECTION("groups") {
    Comparison(world).after(3'000, "groups of 1024", [&](int i) { alice.join("g" + std::to_string(i), 0, 1024); });
  }
  SECTION("small groups") {
    Comparison(world).after(10'000, "groups of 2", [&](int i) { alice.join("g" + std::to_string(i), 0, 2); });
  }
  SECTION("groups of 16") {
    Comparison(world).after(10'000, "groups of 16", [&](int i) { alice.join("g" + std::to_string(i), 0, 16); });
  }
  SECTION("seats") {
    Comparison(world).after(1024, "seats", [&](int i) { alice.join("g", i, 1024); });
  }
  SECTION("failed ops") {
    alice.join("g", 0, 2);
    Comparison(world).after(3'000, "failed ops", [&](int) { alice.contribute(Kind::broadcast, {}, 5); });
  }
  SECTION("lost seats") {
    bob.join("g", 1023, 1024, muster::OnLoss::shrink);
    Comparison(world).after(1023, "lost seats", [&](int i) {
      alice.join("g", i, 1024, muster::OnLoss::shrink);
      alice.leave();
    });
  }
  SECTION("clients") {
    Comparison(world).after(1000, "clients", [&](int i) { TestClient(world, 100 + static_cast<std::uint32_t>(i)); });
  }
}
