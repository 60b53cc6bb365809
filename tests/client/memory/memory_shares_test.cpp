// How processes share a store that is too small for everything that they would like to keep. A job fits if its bytes
// do. Memory that one process freed goes to others. A process that waits has its turn. Small results don't wait behind
// large ones.
#include <catch2/catch.hpp>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include <muster/group.hpp>

#include "core/connection.hpp"
#include "../daemon.hpp"

namespace {

using namespace std::chrono_literals;
using muster::Client;
using muster::Ref;
using muster::test::Daemon;
using muster::test::filled;
using muster::test::memory_used;

constexpr std::int64_t floats_of_a_mebibyte = (1 << 20) / 4;

/// Clients that each look like a separate process to the daemon.
class Processes {
 public:
  explicit Processes(const Daemon& daemon) : daemon_(daemon) {}
  Client another() {
    // A process has one connection to each path.
    const auto path = links_.path() + "/" + std::to_string(++count_);
    REQUIRE(::symlink(daemon_.socket().c_str(), path.c_str()) == 0);
    muster::ConnectOptions options;
    options.socket = path;
    options.start_daemon = false;
    return Client::connect(options).value();
  }

 private:
  const Daemon& daemon_;
  muster::test::TempFolder links_;
  int count_ = 0;
};

Ref filled_mebibytes(Client& client, std::int64_t mebibytes) {
  return filled(client, mebibytes * floats_of_a_mebibyte, 1);
}

/// Takes one rank's part in an allreduce. Returns whether its result was right.
bool reduce(Client& client, int rank, int world_size, std::int64_t count) {
  muster::JoinOptions options;
  options.rank = rank;
  options.world_size = world_size;
  auto group = client.join("job", options);
  if (!group) return false;
  auto buffer = client.allocate<float>({count}, 60s);
  if (!buffer) return false;
  std::ranges::fill(buffer->span(), 1.0F);
  auto ref = std::move(*buffer).seal();
  if (!ref) return false;
  auto work = group->allreduce(*ref, muster::ReduceOp::sum, {.timeout = 60s, .key = {}});
  if (!work) return false;
  const auto result = work->result<float>(60s);
  return result && result->span[static_cast<std::size_t>(count) - 1] == static_cast<float>(world_size);
}

}  // namespace

TEST_CASE("a job fits if its bytes do, with a quarter more and a mebibyte for each rank") {
  struct Job {
    int ranks;
    std::int64_t mebibytes;
    const char* memory;
  };
  const auto job = GENERATE(Job{64, 1, "146MiB"}, Job{48, 6, "416MiB"}, Job{8, 24, "278MiB"});
  CAPTURE(job.ranks, job.mebibytes, job.memory);
  const Daemon daemon(job.memory);
  Processes processes(daemon);
  std::atomic<int> right = 0;
  std::vector<Client> clients;
  for (int rank = 0; rank < job.ranks; ++rank) clients.push_back(processes.another());
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < job.ranks; ++rank)
    ranks.emplace_back([&, rank] {
      right += reduce(clients[static_cast<std::size_t>(rank)], rank, job.ranks, job.mebibytes * floats_of_a_mebibyte);
    });
  for (auto& rank : ranks) rank.join();
  CHECK(right == job.ranks);
}

TEST_CASE("memory that a process has freed goes to others, whatever the process does then") {
  const Daemon daemon("256MiB");
  Processes processes(daemon);
  Client first = processes.another();
  Client second = processes.another();
  const bool first_of_all = GENERATE(true, false);
  std::vector<Ref> small;
  if (!first_of_all) small.push_back(filled(first, 100, 1));
  {
    const Ref large = filled_mebibytes(first, 192);
    small.push_back(filled(first, 100, 1));
  }
  // From here on it computes, and makes no calls to the store.
  CHECK(second.allocate<float>({160 * floats_of_a_mebibyte}, 10s));
}

TEST_CASE("the memory of many small freed objects goes to others, too") {
  const Daemon daemon("64MiB");
  Processes processes(daemon);
  Client first = processes.another();
  Client second = processes.another();
  {
    std::vector<Ref> refs;
    for (int i = 0; i < 40; ++i) refs.push_back(filled_mebibytes(first, 1));
  }
  CHECK(second.allocate<float>({40 * floats_of_a_mebibyte}, 10s));
}

TEST_CASE("in a full store all processes that make and free arrays have their turn") {
  constexpr std::size_t makers = 16;
  constexpr int enough = 30;
  const Daemon daemon("64MiB");
  Processes processes(daemon);
  const bool are_threads = GENERATE(false, true);
  std::vector<Client> clients;
  for (std::size_t i = 0; i < makers; ++i) clients.push_back(are_threads ? daemon.connect() : processes.another());
  std::vector<std::atomic<int>> made(makers);
  std::atomic<bool> over = false;
  std::atomic<int> failed = 0;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < makers; ++i)
    threads.emplace_back([&, i] {
      while (!over) {
        auto buffer = clients[i].allocate<float>({8 * floats_of_a_mebibyte}, 60s);
        if (!buffer) ++failed;
        else if (std::move(*buffer).seal() && ++made[i] >= enough) over = true;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(failed == 0);
  int least = enough;
  for (const auto& each : made) least = std::min(least, each.load());
  // Threads of one process share its memory.
  if (!are_threads) CHECK(least >= enough / 4);
}

TEST_CASE("a small op goes on in a store that others have filled, and newcomers can connect to it") {
  const Daemon daemon("128MiB");
  Processes processes(daemon);
  Client greedy = processes.another();
  std::vector<Ref> all;
  for (auto bytes : {64, 32, 16, 4, 2, 1})
    while (auto buffer = greedy.allocate<float>({bytes * floats_of_a_mebibyte}, 0s))
      all.push_back(std::move(*buffer).seal().value());
  // A process that waits for more goes on, too.
  std::atomic<bool> found_room = false;
  std::jthread waits([&] { found_room = greedy.allocate<float>({32 * floats_of_a_mebibyte}, 3s).ok(); });
  Client client = processes.another();
  for (int i = 0; i < 100; ++i) {
    const Ref input = filled(client, 256, 1);
    auto work = client.allreduce_refs(std::vector<Ref>{input, input}).value();
    CHECK(muster::test::floats(work.ref(10s).value())[0] == 2);
  }
  waits.join();
  CHECK_FALSE(found_room);
}

TEST_CASE("small arrays that dead processes leave behind keep little more than themselves") {
  constexpr int workers = 20;
  constexpr std::uint64_t each = 64 << 10;
  const Daemon daemon("64MiB");
  Client reader = daemon.connect();
  const auto before = memory_used(reader);
  std::vector<Ref> left;
  const muster::test::TempFolder folder;
  for (int i = 0; i < workers; ++i) {
    const auto path = folder.path() + "/" + std::to_string(i);
    const pid_t worker = muster::test::in_child([&] {
      Client client = daemon.connect();
      const Ref temporary = filled_mebibytes(client, 4);
      const Ref ref = filled(client, 6, static_cast<float>(i));
      std::ofstream(path) << ref.serialize().value();
      return true;
    });
    REQUIRE(muster::test::succeeded(worker));
    std::stringstream bytes;
    bytes << std::ifstream(path).rdbuf();
    left.push_back(reader.deserialize(bytes.str()).value());
  }
  // Waits until the daemon has seen the last of them end.
  CHECK(reader.connection()->wait([&] { return memory_used(reader) <= before + workers * each; },
                                  std::chrono::steady_clock::now() + 10s));
  for (int i = 0; i < workers; ++i)
    CHECK(muster::test::floats(left[static_cast<std::size_t>(i)])[0] == static_cast<float>(i));
}
