// What the C++ client does with memory of GPUs, over real daemons and workers.
#include <catch2/catch.hpp>

#include <chrono>
#include <cstdlib>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <muster/client.hpp>

#include "client/daemon.hpp"
#include "context.hpp"
#include "core/connection.hpp"
#include "core/requests.hpp"

namespace {

using muster::ArrayView;
using muster::Buffer;
using muster::Client;
using muster::Code;
using muster::Device;
using muster::Ref;
using muster::Stream;
using muster::test::Daemon;
using musterd::gpu::cuda::Address;
using musterd::gpu::cuda::Status;
using musterd::testing::Context;
using namespace std::chrono_literals;
namespace cuda = musterd::gpu::cuda;

constexpr std::int64_t count = 1000;

std::vector<float> counted(float first = 1) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

Address address_of(const void* data) { return reinterpret_cast<Address>(data); }

/// Writes as a program does that knows CUDA and nothing of Muster.
void write(const Context& context, const Buffer<float>& buffer, const std::vector<float>& values,
           cuda::Stream stream = nullptr) {
  REQUIRE(context.driver->memcpy_htod_async(address_of(buffer.span().data()), values.data(),
                                            values.size() * sizeof(float), stream) == Status::success);
}

std::vector<float> read(const Context& context, const ArrayView& view) {
  std::vector<float> values(view.count(), -1);
  REQUIRE(context.driver->memcpy_dtoh_async(values.data(), address_of(view.data()), view.bytes(), nullptr) ==
          Status::success);
  REQUIRE(context.driver->stream_synchronize(nullptr) == Status::success);
  return values;
}

std::vector<float> read(const Context& context, const Ref& ref) {
  const auto views = ref.get();
  REQUIRE(views);
  return read(context, views->front());
}

struct GpuMemory {
  std::uint64_t used = 0;
  std::uint64_t budget = 0;
};

/// What the daemon has lent there, after all that this client has told it.
GpuMemory memory_of(const Client& client, const std::string& device) {
  namespace wire = muster::ipc::wire;
  const auto packet = muster::detail::ask(*client.connection(), wire::Body_StatusQuery, 10s, [](auto& fbb) {
                        return wire::CreateStatusQuery(fbb).Union();
                      }).value();
  for (const auto* gpu : *wire::GetFrame(packet.bytes.data())->body_as_StatusReply()->gpus())
    if (gpu->device()->str() == device) return {gpu->memory_used_bytes(), gpu->memory_bytes()};
  FAIL("the daemon has no " + device);
  return {};
}

std::uint64_t memory_used(const Client& client, const std::string& device) { return memory_of(client, device).used; }

std::vector<float> on_host(const Ref& ref) {
  const auto views = ref.get();
  REQUIRE(views);
  const auto span = views->front().span<float>();
  return {span.begin(), span.end()};
}

}  // namespace

TEST_CASE("an array on a GPU is written in place, sealed and read, without a copy") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = client.allocate<float>({10, 100}, Device::cuda(0));
  REQUIRE(buffer);
  CHECK(buffer->device() == Device::cuda(0));
  const auto values = counted();  // stays, as the copy may read it later
  write(context, *buffer, values);
  const auto ref = std::move(*buffer).seal();
  REQUIRE(ref);
  CHECK(ref->device() == Device::cuda(0));
  CHECK(ref->shape() == muster::Shape{10, 100});
  const auto views = ref->get();
  REQUIRE(views);
  CHECK(views->front().device() == Device::cuda(0));
  CHECK(read(context, views->front()) == values);
}

TEST_CASE("memory of a GPU that is new is zero") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = client.allocate<float>({count}, Device::cuda(0));
  REQUIRE(buffer);
  CHECK(read(context, std::move(*buffer).seal().value()) == std::vector<float>(count, 0));
}

TEST_CASE("a seal waits for what wrote the buffer: the stream that it names, or else all work on the GPU") {
  const bool named = GENERATE(true, false);
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  cuda::Stream stream = nullptr;
  REQUIRE(context.driver->stream_create(&stream, cuda::stream_non_blocking) == Status::success);
  auto values = counted();
  auto buffer = client.allocate<float>({count}, Device::cuda(0));
  REQUIRE(buffer);
  // A program that does not know when its copy reads the host's memory must not change that before the copy is over.
  write(context, *buffer, values, stream);
  const auto ref = named ? std::move(*buffer).seal(Stream{stream}) : std::move(*buffer).seal();
  REQUIRE(ref);
  values.assign(count, -1);
  CHECK(read(context, *ref) == counted());
  REQUIRE(context.driver->stream_destroy(stream) == Status::success);
}

TEST_CASE("a buffer of the host has no stream") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = client.allocate<float>({count});
  REQUIRE(buffer);
  const auto ref = std::move(*buffer).seal(Stream{});
  REQUIRE_FALSE(ref);
  CHECK(ref.error().code() == Code::invalid);
}

TEST_CASE("an array is put on a GPU from the host, and from another GPU", "[2-gpus]") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto first = client.put(muster::DType::float32, {count}, values.data(), Device::cuda(0));
  REQUIRE(first);
  CHECK(read(context, *first) == values);
  const auto view = first->get().value().front();
  const auto second = client.put(muster::DType::float32, {count}, view.data(), Device::cuda(1));
  REQUIRE(second);
  CHECK(second->device() == Device::cuda(1));
  CHECK(on_host(second->to(Device::cpu()).value()) == values);
}

TEST_CASE("an object moves to a device when it is told to, and not if it is there", "[2-gpus]") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto host = client.put<float>(std::span(values));
  REQUIRE(host);
  const auto gpu = host->to(Device::cuda(0));
  REQUIRE(gpu);
  CHECK(read(context, *gpu) == values);
  const auto same = gpu->to(Device::cuda(0));
  REQUIRE(same);
  CHECK(same->serialize().value() == gpu->serialize().value());
  const auto other = gpu->to(Device::cuda(1));
  REQUIRE(other);
  CHECK(other->device() == Device::cuda(1));
  const auto back = other->to(Device::cpu());
  REQUIRE(back);
  CHECK(on_host(*back) == values);
}

TEST_CASE("a bundle has arrays on the host and on GPUs, and one without elements", "[2-gpus]") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  std::vector<muster::RawBuffer> buffers;
  for (const auto device : {Device::cpu(), Device::cuda(0), Device::cuda(1)})
    buffers.push_back(client.allocate_raw(muster::DType::float32, {count}, device).value());
  buffers.push_back(client.allocate_raw(muster::DType::float32, {0}, Device::cuda(1)).value());
  const auto ref = client.seal_bundle(std::move(buffers), "");
  REQUIRE(ref);
  REQUIRE(ref->leaves() == 4);
  CHECK(ref->device(0) == Device::cpu());
  CHECK(ref->device(1) == Device::cuda(0));
  CHECK(ref->device(2) == Device::cuda(1));
  CHECK(ref->device(3) == Device::cuda(1));
  const auto views = ref->get();
  REQUIRE(views);
  CHECK(read(context, (*views)[1]) == std::vector<float>(count, 0));
  const auto host = ref->to(Device::cpu());
  REQUIRE(host);
  for (std::size_t leaf = 0; leaf < 4; ++leaf) CHECK(host->device(leaf) == Device::cpu());
}

TEST_CASE("arrays on a GPU are summed there") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  std::vector<Ref> inputs;
  for (const float first : {1.0F, 2.0F, 3.0F}) {
    const auto values = counted(first);
    inputs.push_back(client.put(muster::DType::float32, {count}, values.data(), Device::cuda(0)).value());
  }
  const auto work = client.allreduce_refs(inputs);
  REQUIRE(work);
  const auto sum = work->ref(30s);
  REQUIRE(sum);
  CHECK(sum->device() == Device::cuda(0));
  std::vector<float> expected(count);
  for (std::size_t at = 0; at < expected.size(); ++at) expected[at] = 3 * static_cast<float>(at) + 6;
  CHECK(read(context, *sum) == expected);
}

TEST_CASE("another process reads the array by its ref") {
  const Daemon daemon;
  std::string ref;
  const pid_t child = muster::test::in_child([&] {
    Client client = daemon.connect();
    const auto values = counted();
    const auto put = client.put(muster::DType::float32, {count}, values.data(), Device::cuda(0));
    const auto got = client.deserialize(put.value().serialize().value());
    return on_host(got.value().to(Device::cpu()).value()) == values;
  });
  CHECK(muster::test::succeeded(child));
}

TEST_CASE("memory that an array has freed is used again") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto used = [&] { return client.allocate<float>({1 << 20}, Device::cuda(0)).value().span().data(); };
  const auto* const first = used();
  for (int i = 0; i < 200; ++i) REQUIRE(used() == first);
}

TEST_CASE("a GPU whose memory is full says who has it") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto part = static_cast<std::int64_t>(memory_of(client, "cuda:0").budget / 8 / sizeof(float));
  std::vector<Buffer<float>> held;
  for (;;) {
    auto buffer = client.allocate<float>({part}, Device::cuda(0), 100ms);
    if (buffer) {
      held.push_back(std::move(*buffer));
      continue;
    }
    CHECK(buffer.error().code() == Code::out_of_memory);
    CHECK(buffer.error().message().find("pid " + std::to_string(::getpid())) != std::string::npos);
    break;
  }
  CHECK_FALSE(held.empty());
  held.clear();
  CHECK(client.allocate<float>({part}, Device::cuda(0), 30s));
}

TEST_CASE("a GPU that the daemon has not is refused by name") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto buffer = client.allocate<float>({1}, Device::cuda(7));
  REQUIRE_FALSE(buffer);
  CHECK(buffer.error().code() == Code::invalid);
  CHECK(buffer.error().message().find("cuda:7") != std::string::npos);
}

TEST_CASE("a GPU that this process can't see is refused, and costs no memory", "[2-gpus]") {
  const Daemon daemon;
  Client client = daemon.connect();
  REQUIRE(::setenv("CUDA_VISIBLE_DEVICES", "1", 1) == 0);
  const auto buffer = client.allocate<float>({1}, Device::cuda(0));
  REQUIRE_FALSE(buffer);
  CHECK(buffer.error().code() == Code::invalid);
  CHECK(buffer.error().hint().find("CUDA_VISIBLE_DEVICES") != std::string::npos);
  const auto until = std::chrono::steady_clock::now() + 30s;
  while (memory_used(client, "cuda:0") > 0 && std::chrono::steady_clock::now() < until) {
  }
  CHECK(memory_used(client, "cuda:0") == 0);
  CHECK(client.allocate<float>({1}, Device::cuda(1)));
  CHECK(memory_used(client, "cuda:1") > 0);
}

TEST_CASE("a forked child can't read a GPU's array, and is told so") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto ref = client.put(muster::DType::float32, {count}, values.data(), Device::cuda(0));
  REQUIRE(ref);
  const pid_t child = muster::test::in_child([&] {
    const auto views = ref->get();
    return !views && views.error().code() == Code::invalid &&
           views.error().message().find("forked") != std::string::npos;
  });
  CHECK(muster::test::succeeded(child));
  CHECK(on_host(ref->to(Device::cpu()).value()) == values);
}
