// Measures an op while something else grows: live objects, ops in flight, groups, leaves of a bundle. One process holds
// two seats. Prints a line `AXIS N MICROSECONDS` for each: the time of one op (of one leaf for `leaves`).
#include <muster/muster.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace {

using muster::Client;
using muster::Group;
using muster::RawBuffer;
using muster::Ref;

constexpr std::int64_t elements = 16;

double median_us(int rounds, const std::function<void()>& work) {
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[static_cast<std::size_t>(rounds) / 2];
}

void print(const char* axis, int number, double us) {
  std::printf("%s %d %.3f\n", axis, number, us);
  std::fflush(stdout);
}

Ref array(Client& client) {
  auto buffer = client.allocate<float>({elements}).value();
  std::fill(buffer.span().begin(), buffer.span().end(), 1.0F);
  return std::move(buffer).seal().value();
}

Ref bundle(Client& client, int leaves) {
  std::vector<RawBuffer> buffers;
  for (int leaf = 0; leaf < leaves; ++leaf)
    buffers.push_back(client.allocate_raw(muster::DType::float32, {elements}).value());
  return client.seal_bundle(std::move(buffers), std::to_string(leaves)).value();
}

Group seat(Client& client, const std::string& name, int rank) {
  muster::JoinOptions options;
  options.rank = rank;
  options.world_size = 2;
  return client.join(name, options).value();
}

void objects(Client& client) {
  const std::vector<Ref> inputs{array(client), array(client)};
  std::vector<Ref> held;
  for (const int number : {1, 10, 100, 1000, 10'000}) {
    while (held.size() < static_cast<std::size_t>(number)) held.push_back(array(client));
    print("objects", number,
          median_us(300, [&] { client.allreduce_refs(inputs, muster::ReduceOp::sum).value().wait().value(); }));
  }
}

/// Starts `number` ops on both seats of each group, then waits for them.
void run_all(std::vector<Group>& first, std::vector<Group>& second, const Ref& input, int number) {
  std::vector<muster::Work> works;
  works.reserve(static_cast<std::size_t>(2 * number));
  for (auto* seats : {&first, &second})
    for (int i = 0; i < number; ++i)
      works.push_back((*seats)[static_cast<std::size_t>(i) % seats->size()].allreduce(input).value());
  for (const auto& work : works) work.wait().value();
}

void in_flight(Client& client) {
  const Ref input = array(client);
  std::vector<Group> first{seat(client, "in-flight", 0)};
  std::vector<Group> second{seat(client, "in-flight", 1)};
  for (const int number : {1, 10, 100, 1000})
    print("ops in flight", number,
          median_us(std::max(10, 300 / number), [&] { run_all(first, second, input, number); }) / number);
}

void groups(Client& client) {
  const Ref input = array(client);
  std::vector<Group> first;
  std::vector<Group> second;
  for (const int number : {1, 10, 100, 500}) {
    while (first.size() < static_cast<std::size_t>(number)) {
      const std::string name = "growth-" + std::to_string(first.size());
      first.push_back(seat(client, name, 0));
      second.push_back(seat(client, name, 1));
    }
    print("groups", number,
          median_us(std::max(10, 300 / number), [&] { run_all(first, second, input, number); }) / number);
  }
}

void leaves(Client& client) {
  for (const int number : {1, 10, 100, 1000, 10'000}) {
    const std::vector<Ref> inputs{bundle(client, number), bundle(client, number)};
    const double us = median_us(std::max(20, 300 / number), [&] {
      client.allreduce_refs(inputs, muster::ReduceOp::sum).value().ref().value().get().value();
    });
    print("leaves", number, us / number);
  }
}

}  // namespace

int main() try {
  auto client = Client::connect().value();
  objects(client);
  in_flight(client);
  groups(client);
  leaves(client);
  return 0;
} catch (const muster::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}
