// The bound of small ops: ranks, and one process that reduces for all of them, with only a mailbox each in shared
// memory. There are no checks, errors or objects, and one op at a time. What remains is the time to switch between
// processes.
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "protocol.hpp"

namespace {

constexpr std::size_t count_max = 16 << 10;  // float32
constexpr std::size_t ranks_max = 64;

struct Mailbox {
  alignas(64) std::atomic<unsigned> asked{0};  ///< counts the rank's ops
  std::size_t count = 0;                       ///< elements of that op; 0 for a barrier
  alignas(64) std::atomic<unsigned> answered{0};
  alignas(64) float input[count_max];
};

struct Shared {
  std::size_t ranks = 0;
  alignas(64) float result[count_max];
  Mailbox boxes[ranks_max];
};

/// If there are more processes than cores, the process that this one waits for needs this core.
void wait_a_moment() { ::sched_yield(); }

void reduce(Shared& shared) {
  const std::size_t count = shared.boxes[0].count;
  for (std::size_t i = 0; i < count; ++i) shared.result[i] = shared.boxes[0].input[i] + shared.boxes[1].input[i];
  for (std::size_t rank = 2; rank < shared.ranks; ++rank)
    for (std::size_t i = 0; i < count; ++i) shared.result[i] += shared.boxes[rank].input[i];
}

[[noreturn]] void serve(Shared& shared) {
  // Between orders a waiting process must not take a core from the others.
  constexpr auto patience = std::chrono::milliseconds(2);
  constexpr auto nap = std::chrono::milliseconds(1);
  for (unsigned op = 1;; ++op) {
    const auto begin = std::chrono::steady_clock::now();
    unsigned rounds = 0;
    for (std::size_t rank = 0; rank < shared.ranks; ++rank)
      while (shared.boxes[rank].asked.load(std::memory_order_acquire) != op) {
        wait_a_moment();
        if (++rounds % 64 == 0 && std::chrono::steady_clock::now() - begin > patience) std::this_thread::sleep_for(nap);
      }
    reduce(shared);
    for (std::size_t rank = 0; rank < shared.ranks; ++rank)
      shared.boxes[rank].answered.store(op, std::memory_order_release);
  }
}

class MailboxRank final : public bench::Rank {
 public:
  MailboxRank(Shared& shared, std::size_t rank) : shared_(shared), box_(shared.boxes[rank]), rank_(rank) {}

  void barrier() override { ask(0); }
  void prepare(const bench::Order& order, std::uint32_t seed) override {
    bench::fill({box_.input, order.count}, static_cast<int>(rank_), seed);
  }
  void run(const bench::Order& order) override { ask(order.count); }
  bool check(const bench::Order& order, std::uint32_t seed) override {
    return bench::is_sum({shared_.result, order.count}, static_cast<int>(shared_.ranks), seed);
  }

 private:
  void ask(std::size_t count) {
    box_.count = count;
    const unsigned op = box_.asked.load(std::memory_order_relaxed) + 1;
    box_.asked.store(op, std::memory_order_release);
    while (box_.answered.load(std::memory_order_acquire) != op) wait_a_moment();
  }

  Shared& shared_;
  Mailbox& box_;
  std::size_t rank_;
};

/// Starts a process that ends with this one.
template <class Body>
pid_t start(const Body& body) {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  ::_exit(body());
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t ranks = argc > 1 ? std::stoul(argv[1]) : 4;
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (ranks < 2 || ranks > ranks_max || memory == MAP_FAILED) return 2;
  auto& shared = *new (memory) Shared;
  shared.ranks = ranks;
  const pid_t server = start([&]() -> int { serve(shared); });
  std::vector<pid_t> others;
  const auto obey = [&](std::size_t rank) {
    MailboxRank self(shared, rank);
    return bench::obey("mailbox", static_cast<int>(rank), self);
  };
  for (std::size_t rank = 1; rank < ranks; ++rank) others.push_back(start([&] { return obey(rank); }));
  int status = obey(0);
  for (const pid_t other : others) {
    int ended = 0;
    ::waitpid(other, &ended, 0);
    if (ended != 0) status = 1;
  }
  ::kill(server, SIGKILL);
  ::waitpid(server, nullptr, 0);
  return status;
}
