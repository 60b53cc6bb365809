// Memory of a GPU that real daemons, workers and clients share. Runs over whatever libcuda.so.1 the loader finds.
#include <catch2/catch.hpp>

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <numeric>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "books.hpp"
#include "client/daemon.hpp"
#include "context.hpp"
#include "core/connection.hpp"
#include "core/requests.hpp"
#include "gpu/worker/segments.hpp"
#include "workers.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::Device;
using muster::Result;
using muster::test::Daemon;
using musterd::gpu::DeviceMapping;
using musterd::gpu::cuda::Status;
using musterd::testing::Context;
using musterd::testing::ended_within;
using musterd::testing::expect_live;
using musterd::testing::live;
using musterd::testing::workers_of;
using namespace std::chrono_literals;
namespace cuda = musterd::gpu::cuda;
namespace ipc = muster::ipc;
namespace wire = muster::ipc::wire;

struct Leased {
  ipc::SegmentId id;
  std::uint64_t bytes = 0;
  ipc::Fd fd;
};

Result<Leased> segment_of(Result<ipc::Packet> packet) {
  if (!packet) return packet.error();
  const auto* segment = wire::GetFrame(packet->bytes.data())->body_as_Segment();
  REQUIRE(segment);
  REQUIRE(packet->fds.size() == 1);
  return Leased{{segment->segment()}, segment->bytes(), std::move(packet->fds.front())};
}

Result<Leased> lease(const Client& client, std::uint64_t bytes, std::uint8_t gpu = 0) {
  const wire::Device device(static_cast<std::uint8_t>(Device::Kind::cuda), gpu);
  return segment_of(muster::detail::ask(*client.connection(), wire::Body_Lease, 30s, [&](auto& fbb) {
    return wire::CreateLease(fbb, bytes, 1000, false, &device).Union();
  }));
}

/// What another process of this user gets that reads the segment.
Result<Leased> map(const Client& client, ipc::SegmentId segment) {
  return segment_of(muster::detail::ask(*client.connection(), wire::Body_Map, 30s,
                                        [&](auto& fbb) { return wire::CreateMap(fbb, segment.value).Union(); }));
}

void mapped(const Client& client, ipc::SegmentId segment) {
  REQUIRE(muster::detail::ask(*client.connection(), wire::Body_Mapped, 30s,
                              [&](auto& fbb) { return wire::CreateMapped(fbb, segment.value).Union(); }));
}

/// A segment as a client maps it.
struct Mapped {
  Mapped(const cuda::Driver& driver_, const Leased& leased) : driver(driver_), mapping(driver, leased.bytes) {
    REQUIRE(mapping.import(leased.fd.get()) == Status::success);
    REQUIRE(mapping.map(0) == Status::success);
  }
  [[nodiscard]] std::vector<int> read(std::size_t count) const {
    std::vector<int> values(count, -1);
    REQUIRE(driver.memcpy_dtoh_async(values.data(), mapping.address(), count * sizeof(int), nullptr) ==
            Status::success);
    REQUIRE(driver.stream_synchronize(nullptr) == Status::success);
    return values;
  }
  void write(const std::vector<int>& values) const {
    REQUIRE(driver.memcpy_htod_async(mapping.address(), values.data(), values.size() * sizeof(int), nullptr) ==
            Status::success);
    REQUIRE(driver.stream_synchronize(nullptr) == Status::success);
  }
  const cuda::Driver& driver;
  DeviceMapping mapping;
};

std::vector<int> counted(std::size_t count) {
  std::vector<int> values(count);
  std::iota(values.begin(), values.end(), 1);
  return values;
}

}  // namespace

TEST_CASE("a client is told of the GPUs, and a worker is started for the first that is needed") {
  const Daemon daemon;
  const Client client = daemon.connect();
  const auto& devices = client.connection()->welcome().devices;
  REQUIRE(devices.size() >= 2);
  CHECK(devices[1].device == Device::cuda(0));
  CHECK(workers_of(daemon.pid()).empty());
  REQUIRE(lease(client, 1));
  CHECK(workers_of(daemon.pid()).size() == 1);
}

TEST_CASE("memory of a GPU is zero at first, and what one process writes the others read") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto leased = lease(client, 3 << 20);
  REQUIRE(leased);
  CHECK(leased->bytes >= 3 << 20);
  constexpr std::size_t count = 1000;
  const Mapped own(*context.driver, *leased);
  CHECK(own.read(count) == std::vector<int>(count, 0));
  own.write(counted(count));
  mapped(client, leased->id);
  const auto other = map(client, leased->id);
  REQUIRE(other);
  CHECK(Mapped(*context.driver, *other).read(count) == counted(count));
}

TEST_CASE("memory outlives the worker that made it, and the next worker is there when it is needed") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto leased = lease(client, 1);
  REQUIRE(leased);
  constexpr std::size_t count = 100;
  Mapped(*context.driver, *leased).write(counted(count));
  mapped(client, leased->id);
  const auto first = workers_of(daemon.pid());
  REQUIRE(first.size() == 1);
  ::kill(first.at(0), SIGKILL);
  // The daemon may not have heard of it yet, so this lease goes to the one worker or to the other, or finds none.
  const auto until = std::chrono::steady_clock::now() + 60s;
  while (!lease(client, 1) && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  const auto second = workers_of(daemon.pid());
  REQUIRE(second.size() == 1);
  CHECK(second != first);
  const auto again = map(client, leased->id);
  REQUIRE(again);
  CHECK(Mapped(*context.driver, *again).read(count) == counted(count));
}

TEST_CASE("a worker that is stopped costs a lease its deadline, and what it makes later goes back", "[fake]") {
  const Daemon daemon;
  const Client client = daemon.connect();
  REQUIRE(lease(client, 1));
  const auto used = live("mappings");
  const auto worker = workers_of(daemon.pid()).at(0);
  REQUIRE(::kill(worker, SIGSTOP) == 0);
  const auto refused = lease(client, 3 << 20);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::out_of_memory);
  CHECK(refused.error().message() == "cuda:0 did not make 4 MiB of memory in time");
  REQUIRE(::kill(worker, SIGCONT) == 0);
  REQUIRE(lease(client, 1));
  expect_live("mappings", used + 1);
  CHECK(workers_of(daemon.pid()).at(0) == worker);
}

TEST_CASE("a GPU that others have filled is OutOfMemory, and the daemon goes on") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  std::size_t unused = 0;
  std::size_t total = 0;
  REQUIRE(context.driver->mem_get_info(&unused, &total) == Status::success);
  const auto room = lease(client, 1);
  REQUIRE(room);
  const std::uint64_t unit = room->bytes;
  std::vector<std::unique_ptr<DeviceMapping>> taken;
  for (auto bytes = unused / unit * unit; bytes >= unit; bytes = bytes / 2 / unit * unit) {
    do taken.push_back(std::make_unique<DeviceMapping>(*context.driver, bytes));
    while (taken.back()->make(0) == Status::success);
  }
  const auto refused = lease(client, unit);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == Code::out_of_memory);
  CHECK(refused.error().message().find("CUDA_ERROR_OUT_OF_MEMORY") != std::string::npos);
  taken.clear();
  // What was released is free once its process has said so to the driver.
  REQUIRE(lease(client, unit));
}

TEST_CASE("a GPU that is not there is Invalid, and a lease that could never be met is refused at once") {
  const Daemon daemon;
  const Client client = daemon.connect();
  const auto devices = client.connection()->welcome().devices.size() - 1;
  const auto missing = lease(client, 1, static_cast<std::uint8_t>(devices));
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code() == Code::invalid);
  const auto too_much = lease(client, std::uint64_t{1} << 46);
  REQUIRE_FALSE(too_much);
  CHECK(too_much.error().code() == Code::out_of_memory);
  CHECK(too_much.error().message().find("cuda:0") != std::string::npos);
}

TEST_CASE("the budget of a GPU is kept") {
  const Context context;
  const Daemon daemon;
  const Client client = daemon.connect();
  std::size_t unused = 0;
  std::size_t total = 0;
  REQUIRE(context.driver->mem_get_info(&unused, &total) == Status::success);
  // 30 % by default.
  const auto most = static_cast<std::uint64_t>(static_cast<double>(total) * 0.3);
  std::uint64_t leased = 0;
  for (;;) {
    const auto one = lease(client, most / 4);
    if (!one) {
      CHECK(one.error().code() == Code::out_of_memory);
      CHECK(one.error().message().find("cuda:0") != std::string::npos);
      break;
    }
    leased += one->bytes;
    REQUIRE(leased <= most);
  }
  CHECK(leased > most / 2);
}

TEST_CASE("the daemon's end ends its workers") {
  pid_t worker = 0;
  {
    Daemon daemon;
    const Client client = daemon.connect();
    REQUIRE(lease(client, 1));
    worker = workers_of(daemon.pid()).at(0);
    SECTION("in order") { CHECK(daemon.end() == 0); }
    SECTION("by SIGKILL") { daemon.kill(SIGKILL); }
  }
  CHECK(ended_within(worker, 30s));
}
