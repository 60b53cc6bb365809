// Arrays that C++ clients leave where they have allocated them, over real daemons and workers, and lies about them.
#include <catch2/catch.hpp>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "books.hpp"
#include "client/daemon.hpp"
#include "context.hpp"
#include "core/connection.hpp"
#include "core/requests.hpp"
#include "device/cuda.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::Device;
using muster::DType;
using muster::Ref;
using muster::detail::Cuda;
using muster::test::Daemon;
using musterd::gpu::cuda::Address;
using musterd::gpu::cuda::Status;
using musterd::testing::Context;
using musterd::testing::expect_live;
using namespace std::chrono_literals;
namespace cuda = musterd::gpu::cuda;
namespace ipc = muster::ipc;
namespace wire = muster::ipc::wire;

constexpr std::int64_t count = 1000;
constexpr std::uint64_t bytes = count * sizeof(float);

std::vector<float> counted() {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

/// An array as another library has it, which frees it with its last owner.
std::shared_ptr<const void> allocated(const Context& context, bool& freed, cuda::Device device = 0) {
  context.driver->ctx_set_current(nullptr);
  const_cast<Context&>(context).use(device);
  Address address = 0;
  REQUIRE(context.driver->mem_alloc(&address, bytes) == Status::success);
  const auto values = counted();
  REQUIRE(context.driver->memcpy_htod_async(address, values.data(), bytes, nullptr) == Status::success);
  REQUIRE(context.driver->ctx_synchronize() == Status::success);
  return {reinterpret_cast<const void*>(address), [&freed, address, &driver = *context.driver](const void*) {
            CHECK(driver.mem_free(address) == Status::success);
            freed = true;
          }};
}

std::vector<float> on_host(const Ref& ref) {
  const auto moved = ref.to(Device::cpu()).value();
  const auto views = moved.get().value();
  const auto span = views.front().span<float>();
  return {span.begin(), span.end()};
}

/// How many arrays of others the workers have open. A real driver does not tell.
void expect_imports(int expected) {
  if (std::getenv("MUSTER_FAKE_GPU_DIR")) expect_live("ipc_imports", expected);
}

/// What a client says of memory that it has, and asks the daemon to take as an object.
auto told_of(const Client& client, const ipc::InPlaceMemory& memory, std::uint8_t device) {
  const auto named = ipc::in_place_as<wire::InPlace>(memory);
  const wire::Device there(static_cast<std::uint8_t>(Device::Kind::cuda), device);
  return muster::detail::ask(*client.connection(), wire::Body_LeaveInPlace, 30s,
                             [&](auto& fbb) { return wire::CreateLeaveInPlace(fbb, &there, &named, 1000).Union(); });
}

void expect_refused(const Client& client, const ipc::InPlaceMemory& memory, std::uint8_t device) {
  const auto reply = told_of(client, memory, device);
  REQUIRE_FALSE(reply);
  INFO(reply.error().message());
  CHECK(reply.error().code() == Code::invalid);
}

/// Calls this client's connection until the memory is free.
bool freed_in_time(const Client& client, const bool& freed) {
  const auto until = std::chrono::steady_clock::now() + 30s;
  while (!freed && std::chrono::steady_clock::now() < until) client.poll();
  return freed;
}

}  // namespace

TEST_CASE("an array that was left in place is read and folded there, and freed when nobody needs it") {
  bool freed = false;
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  auto owner = allocated(context, freed);
  auto ref = client.put_in_place(DType::float32, {count}, owner.get(), Device::cuda(0), owner);
  REQUIRE(ref);
  CHECK(ref->device() == Device::cuda(0));
  {
    // Here its owner reads it, at its own address.
    const auto views = ref->get().value();
    CHECK(views.front().data() == owner.get());
  }
  CHECK(on_host(*ref) == counted());
  const auto sum = client.allreduce_refs(std::vector<Ref>{*ref, *ref}).value().ref().value();
  auto twice = counted();
  for (auto& value : twice) value *= 2;
  CHECK(on_host(sum) == twice);
  expect_imports(1);  // the worker's
  owner.reset();
  CHECK_FALSE(freed);
  *ref = {};
  CHECK(freed_in_time(client, freed));
  expect_imports(0);
}

TEST_CASE("two objects in one allocation are free of each other, and a GPU that nobody sees opens nothing") {
  bool freed = false;
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  auto owner = allocated(context, freed);
  auto ref = client.put_in_place(DType::float32, {count}, owner.get(), Device::cuda(0), owner).value();
  auto part =
      client.put_in_place(DType::float32, {1}, static_cast<const float*>(owner.get()) + 9, Device::cuda(0), owner)
          .value();
  const auto unmapped = Cuda::get().value()->open({.bytes = bytes, .handle = {}, .gpu = {}}, Device::cuda(0));
  REQUIRE_FALSE(unmapped);
  CHECK(unmapped.error().code() == Code::invalid);
  CHECK(on_host(part) == std::vector<float>{10});
  owner.reset();
  ref = {};
  part = {};
  CHECK(freed_in_time(client, freed));
}

TEST_CASE("when the daemon ends, its objects are gone, and the memory is the owner's alone") {
  bool freed = false;
  const Context context;
  Daemon daemon;
  Client client = daemon.connect();
  auto owner = allocated(context, freed);
  auto ref = client.put_in_place(DType::float32, {count}, owner.get(), Device::cuda(0), owner);
  REQUIRE(ref);
  owner.reset();
  daemon.kill(9);
  CHECK(freed_in_time(client, freed));
}

TEST_CASE("what can't be left in place is Invalid, and says why") {
  bool freed = false;
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto owner = allocated(context, freed);
  const auto* const floats = static_cast<const float*>(owner.get());
  const auto refused = [&](const void* data, std::int64_t elements, Device device) {
    const auto ref = client.put_in_place(DType::float32, {elements}, data, device, owner);
    REQUIRE_FALSE(ref);
    CHECK(ref.error().code() == Code::invalid);
    return ref.error().message();
  };
  const float on_stack = 0;
  CHECK(refused(&on_stack, 1, Device::cuda(0)).find("only memory of a GPU") != std::string::npos);
  CHECK(refused(floats + 1, count, Device::cuda(0)).find("its memory ends after 3996") != std::string::npos);
  CHECK(refused(reinterpret_cast<const std::byte*>(floats) + 2, 1, Device::cuda(0)).find("aligned") !=
        std::string::npos);
  CHECK(refused(floats, count, Device::cuda(7)).find("cuda:7") != std::string::npos);
  auto buffer = client.allocate<float>({count}, Device::cuda(0)).value();
  CHECK(refused(buffer.span().data(), count, Device::cuda(0)).find("legacy IPC") != std::string::npos);
  const auto empty = client.put_in_place(DType::float32, {0}, nullptr, Device::cuda(0), nullptr);
  REQUIRE(empty);
  CHECK(empty->nbytes() == 0);
  expect_imports(0);
}

TEST_CASE("an array is left in place only as one of the GPU that it is on", "[2-gpus]") {
  bool freed = false;
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto owner = allocated(context, freed);
  const auto ref = client.put_in_place(DType::float32, {count}, owner.get(), Device::cuda(1), owner);
  REQUIRE_FALSE(ref);
  CHECK(ref.error().code() == Code::invalid);
  CHECK(ref.error().message().find("another GPU") != std::string::npos);
}

TEST_CASE("a client that lies about a handle is refused, and costs nobody anything") {
  bool freed = false;
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto owner = allocated(context, freed);
  auto ref = client.put_in_place(DType::float32, {count}, owner.get(), Device::cuda(0), owner).value();
  const auto truth = Cuda::get().value()->share(owner.get()).value();
  auto lie = truth->memory();
  SECTION("no handle at all") { lie.handle = {}; }
  SECTION("a damaged handle") { lie.handle[0] ^= 1; }
  SECTION("more bytes") { ++lie.bytes; }
  SECTION("no bytes") { lie.bytes = 0; }
  SECTION("far more bytes") { lie.bytes = ~std::uint64_t{0}; }
  SECTION("another GPU") { lie.gpu[3] ^= 1; }
  expect_refused(client, lie, 0);
  expect_refused(client, truth->memory(), 1);
  // The daemon, its worker and the object are as they were.
  CHECK(on_host(ref) == counted());
  const std::vector<Ref> both{ref, ref};
  CHECK(client.allreduce_refs(both).value().ref());
  expect_imports(1);
}

// A real driver opens the block of memory in which the array was, as long as anything else is in it.
TEST_CASE("memory that was freed before anybody opened it is refused", "[fake]") {
  bool freed = false;
  const Context context;
  const Daemon daemon;
  const Client client = daemon.connect();
  auto owner = allocated(context, freed);
  const auto before = Cuda::get().value()->share(owner.get()).value()->memory();
  owner.reset();
  expect_refused(client, before, 0);
  expect_imports(0);
}

TEST_CASE("an op over arrays in place on several GPUs takes each where it is", "[2-gpus]") {
  bool first_freed = false;
  bool second_freed = false;
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  {
    const auto first = allocated(context, first_freed, 0);
    const auto second = allocated(context, second_freed, 1);
    std::vector<Ref> both{client.put_in_place(DType::float32, {count}, first.get(), Device::cuda(0), first).value(),
                          client.put_in_place(DType::float32, {count}, second.get(), Device::cuda(1), second).value()};
    CHECK(on_host(both[0]) == counted());
    CHECK(on_host(both[1]) == counted());
  }
  CHECK(freed_in_time(client, first_freed));
  CHECK(freed_in_time(client, second_freed));
}
