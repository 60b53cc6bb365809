// Who wakes whom: plays every interleaving of the steps that ring.hpp lists, over real rings and flags. A lost wake-up
// shows as a schedule after which neither side can move and a record is unread. Each protocol also runs with two steps
// of the sleeper swapped, which must lose a wake-up: so the search is known to find lost wake-ups.
#include <functional>
#include <new>
#include <optional>
#include <vector>

#include <catch2/catch.hpp>
#include <muster/ipc/ring.hpp>

namespace muster::ipc {
namespace {

/// The rings' memory, made once.
struct Memory {
  std::vector<std::uint64_t> words = std::vector<std::uint64_t>(channel_bytes / 8);
  std::byte* begin = reinterpret_cast<std::byte*>(words.data());
  std::byte* submissions = begin + channel_header_bytes;
  std::byte* completions = submissions + ring_bytes;
};

/// Both ends of a channel.
struct Channel {
  explicit Channel(Memory& memory)
      : header(*new (memory.begin) ChannelHeader{}),
        client_writes(memory.submissions, header.submission_tail, header.submission_head),
        daemon_reads(memory.submissions, header.submission_tail, header.submission_head),
        daemon_writes(memory.completions, header.completion_tail, header.completion_head),
        client_reads(memory.completions, header.completion_tail, header.completion_head) {}
  ChannelHeader& header;
  RingProducer client_writes;
  RingConsumer daemon_reads;
  RingProducer daemon_writes;
  RingConsumer client_reads;
};

/// A channel, and the kernel's state: an eventfd's count, a futex's sleeper.
struct World {
  Memory memory;
  std::optional<Channel> channel;
  bool doorbell = false;
  bool client_asleep = false;
  int unwritten = 0;
  int unread = 0;

  void reset() {
    channel.emplace(memory);
    doorbell = client_asleep = false;
    unwritten = unread = 2;
  }
  ChannelHeader& header() { return channel->header; }
};

/// A side is at a numbered step. A step returns the number of the next one. It returns `blocked`, and changes nothing,
/// if it can't be taken now or the side is at its end.
constexpr int blocked = -1;
using Side = std::function<int(World&, int step)>;
struct Protocol {
  Side writer;
  Side reader;
  std::function<void(World&)> prepare = [](World&) {};
};

/// Plays every schedule: wherever both sides can move, one play moves the first, another play moves the second.
struct Explorer {
  const Protocol& protocol;
  int schedules = 0;
  int lost_wakeups = 0;  ///< schedules after which neither side can move and a record is unread

  void explore(World& world) {
    std::vector<bool> schedule;  // true: the reader moved
    do {
      world.reset();
      protocol.prepare(world);
      if (play(world, schedule)) {
        ++schedules;
        lost_wakeups += world.unread != 0;
      }
      while (!schedule.empty() && schedule.back()) schedule.pop_back();
      if (!schedule.empty()) schedule.back() = true;
    } while (!schedule.empty());
  }

  /// Follows `schedule` and extends it to an end. Returns false if it only repeats another schedule, differing in a
  /// move that could not be made.
  bool play(World& world, std::vector<bool>& schedule) {
    int writer = 0, reader = 0;
    for (std::size_t move = 0;; ++move) {
      const bool known = move < schedule.size();
      if (!known) schedule.push_back(false);
      if (!schedule[move]) {
        if (const int next = protocol.writer(world, writer); next != blocked) {
          writer = next;
          continue;
        }
        schedule[move] = true;
      }
      const int next = protocol.reader(world, reader);
      if (next == blocked) return !known;
      reader = next;
    }
  }
};

int client_submits(World& world, int step) {
  switch (step) {
    case 0:
      if (world.unwritten == 0) return blocked;
      --world.unwritten;
      REQUIRE(world.channel->client_writes.try_write(1, {}).value());
      world.channel->client_writes.publish();
      return 1;
    default:
      if (world.header().daemon_polls == 0) world.doorbell = true;
      return 0;
  }
}

/// `looks_first` is the wrong order.
int daemon_serves(World& world, int step, bool looks_first) {
  switch (step) {
    case 0:  // polls
      if (world.channel->daemon_reads.next().value()) return --world.unread, 0;
      return looks_first ? 2 : 1;
    case 1: world.header().daemon_polls = 0; return looks_first ? 3 : 2;
    case 2:
      if (world.channel->daemon_reads.empty()) return looks_first ? 1 : 3;
      return 4;
    case 3:  // in epoll
      if (!world.doorbell) return blocked;
      world.doorbell = false;
      return 4;
    default: world.header().daemon_polls = 1; return 0;
  }
}

TEST_CASE("a daemon that sleeps misses no submission") {
  const bool looks_first = GENERATE(false, true);
  const Protocol protocol{client_submits,
                          [=](World& world, int step) { return daemon_serves(world, step, looks_first); },
                          [](World& world) { world.header().daemon_polls = 1; }};
  Explorer explorer{protocol};
  World world;
  explorer.explore(world);
  CAPTURE(explorer.schedules);
  REQUIRE(explorer.schedules > 50);
  REQUIRE((explorer.lost_wakeups > 0) == looks_first);
}

int daemon_completes(World& world, int step) {
  switch (step) {
    case 0:
      if (world.unwritten == 0) return blocked;
      --world.unwritten;
      REQUIRE(world.channel->daemon_writes.try_write(1, {}).value());
      world.channel->daemon_writes.publish();
      return 1;
    case 1: return world.header().client_sleeps != 0 ? 2 : 0;
    case 2: return world.header().client_sleeps.exchange(0) != 0 ? 3 : 0;
    default: world.client_asleep = false; return 0;
  }
}

int client_waits(World& world, int step, bool looks_first) {
  switch (step) {
    case 0:
      if (world.channel->client_reads.next().value()) return --world.unread == 0 ? 6 : 0;
      return looks_first ? 2 : 1;
    case 1: world.header().client_sleeps = 1; return looks_first ? 3 : 2;
    case 2:
      if (world.channel->client_reads.empty()) return looks_first ? 1 : 3;
      return 5;
    case 3:  // the kernel compares the word and puts the thread to sleep in one step
      if (world.header().client_sleeps != 1) return 5;
      world.client_asleep = true;
      return 4;
    case 4: return world.client_asleep ? blocked : 5;
    case 5: world.header().client_sleeps = 0; return 0;
    default: return blocked;
  }
}

TEST_CASE("a client that sleeps misses no completion") {
  const bool looks_first = GENERATE(false, true);
  const Protocol protocol{daemon_completes,
                          [=](World& world, int step) { return client_waits(world, step, looks_first); }};
  Explorer explorer{protocol};
  World world;
  explorer.explore(world);
  CAPTURE(explorer.schedules);
  REQUIRE(explorer.schedules > 50);
  REQUIRE((explorer.lost_wakeups > 0) == looks_first);
}

/// Writes two records that need more room than there is, until the client has read.
int daemon_completes_when_there_is_room(World& world, int step, bool asks_first) {
  const std::vector<std::byte> body(record_bytes_max);
  switch (step) {
    case 0:
    case 2:
      if (world.unwritten == 0) return blocked;
      if (world.channel->daemon_writes.try_write(1, body).value()) {
        --world.unwritten;
        world.channel->daemon_writes.publish();
        world.header().completions_wait = 0;
        return 0;
      }
      if (asks_first) return step == 0 ? 2 : 1;
      return step == 0 ? 1 : 3;
    case 1: world.header().completions_wait = 1; return asks_first ? 3 : 2;
    default:  // in epoll
      if (!world.doorbell) return blocked;
      world.doorbell = false;
      return 0;
  }
}

int client_reads_and_tells(World& world, int step) {
  switch (step) {
    case 0: {
      const auto record = world.channel->client_reads.next().value();
      if (!record) return blocked;  // another step of the daemon comes back here
      world.unread -= record->type == 1;
      return 1;
    }
    default:
      if (world.header().completions_wait != 0) world.doorbell = true;
      return 0;
  }
}

TEST_CASE("a daemon whose completions did not fit learns that there is room") {
  const bool asks_first = GENERATE(false, true);
  const auto fill = [](World& world) {
    const std::vector<std::byte> body(record_bytes_max);
    while (world.channel->daemon_writes.try_write(2, body).value()) {
    }
    world.channel->daemon_writes.publish();
  };
  const Protocol protocol{
      [=](World& world, int step) { return daemon_completes_when_there_is_room(world, step, asks_first); },
      client_reads_and_tells, fill};
  Explorer explorer{protocol};
  World world;
  explorer.explore(world);
  CAPTURE(explorer.schedules);
  REQUIRE(explorer.schedules > 50);
  REQUIRE((explorer.lost_wakeups > 0) == asks_first);
}

}  // namespace
}  // namespace muster::ipc
