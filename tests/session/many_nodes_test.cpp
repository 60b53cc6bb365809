// A node needs nothing of the system that runs it: two thousand of them live in one process at the same time. So a
// simulation of a cluster can have one for each host.
#include <catch2/catch.hpp>

#include <cstring>
#include <filesystem>
#include <iterator>
#include <list>

#include "client.hpp"
#include "memory/heap_backing.hpp"
#include "walk/audit.hpp"

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;

namespace {

constexpr std::size_t nodes = 2000;

/// A node with two ranks of a group.
class Host {
 public:
  explicit Host(SegmentBacking& backing) : world_(small_settings(), std::make_unique<Recorder>(), backing) {
    first_.join("g", 0, 2);
    second_.join("g", 1, 2);
  }

  /// Returns the sum of these that both ranks get.
  std::vector<float> allreduce(std::vector<float> first, const std::vector<float>& second) {
    const auto one = first_.contribute(Kind::allreduce, {first_.seal(first_.lease(4096), 64, first)});
    const auto two = second_.contribute(Kind::allreduce, {second_.seal(second_.lease(4096), 128, second)});
    const auto done = first_.done(one);
    const auto other = second_.done(two);
    if (!done || !other || done->items.empty() || other->items.empty()) throw std::runtime_error("no outcome");
    const auto object = NodeAudit(world_.node).held_object(first_.id(), done->items.front().object);
    if (!object || object->id != other->items.front().object) throw std::runtime_error("not one result");
    first.resize(object->manifest.leaves.front().bytes() / sizeof(float));
    std::memcpy(first.data(), host_address(object->place(0)), first.size() * sizeof(float));
    return first;
  }
  bool second_is_told_when_first_dies() {
    const auto work = second_.contribute(Kind::barrier);
    first_.die();
    const auto failed = second_.failed(work);
    return failed && failed->code() == muster::Code::peer_lost;
  }
  std::vector<std::string> left_over_when_all_are_gone() {
    second_.die();
    while (world_.node.goes_on()) world_.go_on();
    return NodeAudit(world_.node).left_over();
  }

 private:
  World world_;
  TestClient first_{world_, 1};
  TestClient second_{world_, 2};
};

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_CASE("two thousand nodes live in one process, and each gives back all that it had") {
  HeapBacking heap;
  const auto descriptors = open_descriptors();
  {
    std::list<Host> hosts;
    for (std::size_t i = 0; i < nodes; ++i) {
      const auto value = static_cast<float>(i);
      auto& host = hosts.emplace_back(heap);
      REQUIRE(host.allreduce({value, 1, 2}, {1, value, 3}) == std::vector<float>{value + 1, value + 1, 5});
    }
    CHECK(heap.alive().segments >= 3 * nodes);  // two leases and one result segment in each
    CHECK(open_descriptors() == descriptors);
    for (auto& host : hosts) {
      REQUIRE(host.second_is_told_when_first_dies());
      REQUIRE(host.left_over_when_all_are_gone() == std::vector<std::string>());
    }
  }
  CHECK(heap.alive().segments == 0);
  CHECK(heap.alive().bytes == 0);
}
