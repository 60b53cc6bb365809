#include "protocol.hpp"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>

namespace bench {

namespace {

constexpr std::size_t page_elements = 4096 / sizeof(float);

double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_now_us() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto us = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

/// Values are small enough that sums of 64 ranks are exact in float32, in any order.
float value(int rank, std::uint32_t seed, std::size_t page) {
  return static_cast<float>((rank + 1) * static_cast<int>(seed % 5 + 1) + static_cast<int>(page % 16));
}

std::FILE* connect_to(const char* path) {
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (socket < 0 || ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return nullptr;
  return ::fdopen(socket, "r+");
}

}  // namespace

void fill(std::span<float> values, int rank, std::uint32_t seed) {
  for (std::size_t page = 0; page * page_elements < values.size(); ++page) {
    const auto part =
        values.subspan(page * page_elements, std::min(page_elements, values.size() - page * page_elements));
    for (float& one : part) one = value(rank, seed, 0);
    part.front() = value(rank, seed, page);
  }
}

namespace {

/// Whether each page is the sum of the values that these ranks filled in.
bool is_sum_of(std::span<const float> values, int first_rank, int last_rank, std::uint32_t seed) {
  for (std::size_t first = 0, page = 0; first < values.size(); first += page_elements, ++page) {
    float of_first = 0;
    float of_others = 0;
    for (int rank = first_rank; rank <= last_rank; ++rank) {
      of_first += value(rank, seed, page);
      of_others += value(rank, seed, 0);
    }
    if (values[first] != of_first) return false;
    if (const std::size_t last = std::min(first + page_elements, values.size()) - 1;
        last > first && values[last] != of_others)
      return false;
  }
  return true;
}

/// (times in microseconds as words, CPU microseconds of all, whether all results were right)
struct Taken {
  std::string times;
  double cpu_us = 0;
  bool right = true;
};

Taken take(const Order& order, Rank& rank) {
  Taken taken;
  for (int round = 0; round < order.rounds; ++round) {
    const std::uint32_t seed = order.seed + static_cast<std::uint32_t>(round);
    rank.prepare(order, seed);
    rank.barrier();  // all ranks have arrived, late ones included
    rank.barrier();  // all ranks are awake, even those that fell asleep meanwhile
    const double cpu_us = cpu_now_us();
    const double begin_us = now_us();
    rank.run(order);
    taken.times += ' ' + std::to_string(now_us() - begin_us);
    taken.cpu_us += cpu_now_us() - cpu_us;
    rank.barrier();
    taken.right = rank.check(order, seed) && taken.right;
  }
  return taken;
}

}  // namespace

bool is_filled(std::span<const float> values, int rank, std::uint32_t seed) {
  return is_sum_of(values, rank, rank, seed);
}

bool is_sum(std::span<const float> values, int ranks, std::uint32_t seed) {
  return is_sum_of(values, 0, ranks - 1, seed);
}

int obey(const std::string& system, int number, Rank& rank) {
  const char* path = std::getenv("BENCH_SOCKET");
  std::FILE* coordinator = path ? connect_to(path) : nullptr;
  if (!coordinator) {
    std::fprintf(stderr, "%s rank %d: there is no coordinator; bench/run starts this program\n", system.c_str(),
                 number);
    return 2;
  }
  std::fprintf(coordinator, "hello %s %d %d\n", system.c_str(), number, ::getpid());
  std::fflush(coordinator);
  char line[256];
  while (std::fgets(line, sizeof line, coordinator)) {
    std::istringstream words(line);
    std::string verb;
    Order order;
    words >> verb >> order.op >> order.variant >> order.count >> order.rounds >> order.seed;
    if (verb != "run") break;
    const Taken taken = take(order, rank);
    std::fseek(coordinator, 0, SEEK_CUR);
    std::fprintf(coordinator, "%s %f%s\n", taken.right ? "times" : "wrong", taken.cpu_us, taken.times.c_str());
    std::fflush(coordinator);
  }
  return 0;
}

}  // namespace bench
