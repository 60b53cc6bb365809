// Whose turn it is: each process's share, how long a newcomer waits, and the order of one process's items.
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "collective/turns.hpp"

using musterd::Process;

namespace {

/// How many bytes an item still wants, and whose it is.
struct Item {
  Process process;
  std::uint64_t bytes = 0;
  std::string name;
};
using Turns = musterd::Turns<Item>;

/// Gives the front item a chunk of at most `bytes`. Returns the item with the bytes that it had.
Item serve(Turns& turns, std::uint64_t bytes) {
  Item& item = turns.front();
  Item had = item;
  had.bytes = std::min(item.bytes, bytes);
  item.bytes -= had.bytes;
  turns.served(had.bytes, item.bytes == 0 ? Turns::Rest::nothing : Turns::Rest::more);
  return had;
}

void add(Turns& turns, const Process& process, std::uint64_t bytes, const std::string& name = {}) {
  turns.add(process, Turns::Size::large, {process, bytes, name});
}

std::vector<std::string> order_of(Turns& turns) {
  std::vector<std::string> names;
  while (!turns.empty()) names.push_back(serve(turns, 1 << 20).name);
  return names;
}

Process process(int pid) { return {.pid = pid, .client = {}}; }

const Process ann = process(1);
const Process bob = process(2);
const Process cid = process(3);

}  // namespace

TEST_CASE("processes that always have work differ by at most one chunk, whatever they queue and whatever others do") {
  std::mt19937 random(GENERATE(1U, 2U, 3U, 4U, 5U));
  const auto below = [&](std::uint64_t end) { return random() % end; };
  constexpr std::uint64_t chunk_max = 1000;
  Turns turns;
  std::map<Process, std::uint64_t> served;
  // One process queues a thousand small items at once, another one large item after another; others come and go.
  for (int i = 0; i < 20'000; ++i) turns.add(ann, Turns::Size::small, {ann, 1 + below(chunk_max), {}});
  add(turns, bob, chunk_max * 20'000);
  for (int step = 0; step < 10'000; ++step) {
    if (below(3) == 0) add(turns, process(10 + static_cast<int>(below(5))), 1 + below(3 * chunk_max));
    const Item had = serve(turns, 1 + below(chunk_max));
    served[had.process] += had.bytes;
    const auto [less, more] = std::minmax(served[ann], served[bob]);
    REQUIRE(more - less <= chunk_max);
  }
}

TEST_CASE("one small job waits for at most one chunk of each other process") {
  const int others = GENERATE(1, 2, 7);
  std::mt19937 random(static_cast<unsigned>(others));
  Turns turns;
  for (int round = 0; round < 500; ++round) {
    for (int other = 0; other < others; ++other)
      for (int i = 0; i < 16; ++i) add(turns, process(10 + other), 1 << 20);
    for (auto turn = random() % 100; turn > 0; --turn) serve(turns, 1 + random() % 1000);
    turns.add(ann, Turns::Size::small, {ann, 1, {}});
    std::map<Process, int> before;
    for (Item had = serve(turns, 1000); had.process != ann; had = serve(turns, 1000)) ++before[had.process];
    for (const auto& [process, chunks] : before) CHECK(chunks == 1);
  }
}

TEST_CASE("a process that leaves and comes back for each chunk gets no more than one that stays") {
  Turns turns;
  std::map<Process, std::uint64_t> served;
  add(turns, ann, 1 << 30);
  for (int step = 0; step < 1000; ++step) {
    if (served[bob] == 0 || turns.front().process == ann) add(turns, bob, 4000);
    const Item had = serve(turns, turns.front().process == bob ? 4000 : 1000);
    served[had.process] += had.bytes;
  }
  CHECK(served[bob] <= served[ann] + 4000);
}

TEST_CASE("items of one process go in order, small ones pass large ones, but not for ever") {
  Turns turns;
  add(turns, ann, 8, "first");
  add(turns, ann, 8, "second");
  for (int i = 0; i < 10; ++i) turns.add(ann, Turns::Size::small, {ann, 8, "small"});
  const auto order = order_of(turns);
  REQUIRE(order.size() == 12);
  CHECK(std::find(order.begin(), order.end(), "first") - order.begin() == 8);
  CHECK(order.back() == "second");
}

TEST_CASE("equals take turns, and a process that has had more waits until the others have had as much") {
  Turns turns;
  for (const Process& each : {ann, bob, cid})
    for (int i = 0; i < 3; ++i) add(turns, each, each == cid ? 21 : 10, std::to_string(each.pid));
  CHECK(order_of(turns) == std::vector<std::string>{"1", "2", "3", "1", "2", "1", "2", "3", "3"});
  CHECK(turns.empty());
}

TEST_CASE("an item that is taken out before its turn leaves the others in their order") {
  Turns turns;
  const Process first{1, 1, {}};
  const Process second{1, 2, {}};
  std::vector<Turns::Handle> handles;
  for (const auto* name : {"a", "b", "c"}) handles.push_back(turns.add(first, Turns::Size::large, {first, 1, name}));
  const auto alone = turns.add(second, Turns::Size::small, {second, 1, "d"});
  turns.remove(handles[1]);
  SECTION("the only item of a process") {
    turns.remove(alone);
    CHECK(order_of(turns) == std::vector<std::string>{"a", "c"});
  }
  SECTION("all items of the process whose turn it is") {
    turns.remove(handles[0]);
    turns.remove(handles[2]);
    CHECK(order_of(turns) == std::vector<std::string>{"d"});
  }
  SECTION("all of them") {
    for (const auto& handle : {handles[0], handles[2], alone}) turns.remove(handle);
    CHECK(turns.empty());
    turns.add(second, Turns::Size::large, {second, 1, "e"});
    CHECK(order_of(turns) == std::vector<std::string>{"e"});
  }
}
