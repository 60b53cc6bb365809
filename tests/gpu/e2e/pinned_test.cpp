// What the C++ client does with pinned memory of the host, over real daemons and workers.
#include <catch2/catch.hpp>

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <muster/client.hpp>

#include "client/daemon.hpp"
#include "context.hpp"
#include "injection.hpp"

namespace {

using muster::Buffer;
using muster::Client;
using muster::Code;
using muster::Device;
using muster::Ref;
using muster::test::Daemon;
using musterd::gpu::cuda::Address;
using musterd::gpu::cuda::Status;
using musterd::testing::Context;
using musterd::testing::Injection;
using namespace std::chrono_literals;
namespace cuda = musterd::gpu::cuda;

constexpr std::int64_t count = 1000;

std::vector<float> counted(float first = 1) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

Buffer<float> pinned(Client& client, std::int64_t elements = count) {
  auto buffer = client.allocate<float>({elements}, Device::pinned(), 10s);
  REQUIRE(buffer);
  return std::move(*buffer);
}

/// An object in pinned memory.
Ref pinned_of(Client& client, const std::vector<float>& values) {
  const auto ref = client.put(muster::DType::float32, {count}, values.data(), Device::pinned());
  REQUIRE(ref);
  return *ref;
}

bool is_view_pinned(const Ref& ref) { return Client::is_pinned(ref.get().value().front().data()); }

/// Whether views are pinned if the driver can do that, once this process uses a GPU.
bool views_are_pinned_here(const Ref& ref) {
  const Context context;
  int supported = 0;
  const auto attribute = cuda::DeviceAttribute::read_only_host_register_supported;
  return context.driver->device_get_attribute(&supported, attribute, 0) == Status::success &&
         is_view_pinned(ref) == (supported == 1);
}

/// A child that waits for a ref, which this process sends when it has made one.
class Reader {
 public:
  explicit Reader(const std::function<bool(const std::string&)>& body) {
    REQUIRE(::pipe(pipe_.data()) == 0);
    child_ = muster::test::in_child([&] {
      std::array<char, 4096> text{};
      const auto bytes = ::read(pipe_[0], text.data(), text.size());
      return bytes > 0 && body(std::string(text.data(), static_cast<std::size_t>(bytes)));
    });
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() {
    ::close(pipe_[0]);
    ::close(pipe_[1]);
  }
  [[nodiscard]] bool reads(const Ref& ref) {
    const auto text = ref.serialize().value();
    REQUIRE(::write(pipe_[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    return muster::test::succeeded(child_);
  }

 private:
  std::array<int, 2> pipe_{};
  pid_t child_ = -1;
};

}  // namespace

TEST_CASE("pinned memory is written and read by the host, and GPUs reach it directly") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = pinned(client);
  CHECK(buffer.device() == Device::pinned());
  CHECK(Client::is_pinned(buffer.span().data()));
  CHECK(Client::is_pinned(buffer.span().data() + count - 1));
  const auto values = counted();
  std::ranges::copy(values, buffer.span().begin());
  const auto ref = std::move(buffer).seal();
  REQUIRE(ref);
  CHECK(ref->device() == Device::pinned());
  CHECK(muster::test::floats(*ref) == values);
  CHECK(views_are_pinned_here(*ref));
}

TEST_CASE("memory of the host that is not pinned is not said to be") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto plain = client.allocate<float>({count});
  REQUIRE(plain);
  CHECK_FALSE(Client::is_pinned(plain->span().data()));
  static_cast<void>(pinned(client));
  CHECK_FALSE(Client::is_pinned(plain->span().data()));
  CHECK_FALSE(Client::is_pinned(nullptr));
}

TEST_CASE("arrays move between pinned memory, the host and GPUs") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto ref = pinned_of(client, values);
  const auto gpu = ref.to(Device::cuda(0));
  REQUIRE(gpu);
  CHECK(gpu->device() == Device::cuda(0));
  const auto back = gpu->to(Device::pinned());
  REQUIRE(back);
  CHECK(back->device() == Device::pinned());
  CHECK(muster::test::floats(*back) == values);
  const auto host = back->to(Device::cpu());
  REQUIRE(host);
  CHECK(host->device() == Device::cpu());
  CHECK(muster::test::floats(host->to(Device::pinned()).value()) == values);
  const auto same = back->to(Device::pinned());
  CHECK(same.value().serialize().value() == back->serialize().value());
}

TEST_CASE("what lies on a GPU is put into pinned memory") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto gpu = client.put(muster::DType::float32, {count}, values.data(), Device::cuda(0));
  REQUIRE(gpu);
  const auto view = gpu->get().value().front();
  const auto ref = client.put(muster::DType::float32, {count}, view.data(), Device::pinned());
  REQUIRE(ref);
  CHECK(muster::test::floats(*ref) == values);
}

TEST_CASE("a seal of pinned memory waits for what GPUs write into it") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto gpu = client.put(muster::DType::float32, {count}, values.data(), Device::cuda(0));
  const auto view = gpu.value().get().value().front();
  cuda::Stream stream = nullptr;
  REQUIRE(context.driver->stream_create(&stream, cuda::stream_non_blocking) == Status::success);
  auto buffer = pinned(client);
  for (int i = 0; i < 100; ++i)
    REQUIRE(context.driver->memcpy_dtoh_async(buffer.span().data(), reinterpret_cast<Address>(view.data()),
                                              view.bytes(), stream) == Status::success);
  const auto ref = std::move(buffer).seal();
  REQUIRE(ref);
  CHECK(context.driver->stream_query(stream) == Status::success);
  CHECK(muster::test::floats(*ref) == values);
  REQUIRE(context.driver->stream_destroy(stream) == Status::success);
}

TEST_CASE("the last view of pinned memory waits for what GPUs read there") {
  const Context context;
  const Daemon daemon;
  Client client = daemon.connect();
  const auto target = client.allocate<float>({count}, Device::cuda(0));
  REQUIRE(target);
  const auto ref = pinned_of(client, counted());
  cuda::Stream stream = nullptr;
  REQUIRE(context.driver->stream_create(&stream, cuda::stream_non_blocking) == Status::success);
  {
    const auto view = ref.get().value().front();
    for (int i = 0; i < 100; ++i)
      REQUIRE(context.driver->memcpy_htod_async(reinterpret_cast<Address>(target->span().data()), view.data(),
                                                view.bytes(), stream) == Status::success);
  }
  CHECK(context.driver->stream_query(stream) == Status::success);
  REQUIRE(context.driver->stream_destroy(stream) == Status::success);
}

TEST_CASE("a buffer of pinned memory has no stream") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto ref = pinned(client).seal(muster::Stream{});
  REQUIRE_FALSE(ref);
  CHECK(ref.error().code() == Code::invalid);
}

TEST_CASE("ops take pinned memory and other memory of the host together, and their results are not pinned") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const std::vector<Ref> inputs{pinned_of(client, values), client.put<float>(std::span(values)).value()};
  const auto sum = client.allreduce_refs(inputs).value().ref(30s);
  REQUIRE(sum);
  CHECK(sum->device() == Device::cpu());
  CHECK(muster::test::floats(*sum)[2] == 6);
}

TEST_CASE("pinned memory that an array has freed is used again, and stays pinned") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto used = [&] {
    const auto buffer = pinned(client, 1 << 20);
    CHECK(Client::is_pinned(buffer.span().data()));
    return buffer.span().data();
  };
  const auto* const first = used();
  for (int i = 0; i < 50; ++i) REQUIRE(used() == first);
}

TEST_CASE("a process pins a quarter of the store, and what is beyond works as memory of the host") {
  const Daemon daemon("256MiB");
  Client client = daemon.connect();
  constexpr std::int64_t elements = 4 << 20;  // 16 MiB
  std::vector<Buffer<float>> held;
  held.reserve(6);
  for (int i = 0; i < 6; ++i) held.push_back(pinned(client, elements));
  for (std::size_t i = 0; i < held.size(); ++i) CHECK(Client::is_pinned(held[i].span().data()) == (i < 4));
  held.back().span()[0] = 7;
  const auto ref = std::move(held.back()).seal();
  REQUIRE(ref);
  CHECK(ref->device() == Device::pinned());
  CHECK(ref->to(Device::cuda(0)).value().to(Device::cpu()).value().get().value().front().span<float>()[0] == 7);
  held.clear();
  CHECK_FALSE(Client::is_pinned(pinned(client, elements * 12).span().data()));
  // That took all that was kept for the next arrays, so there is room again.
  CHECK(Client::is_pinned(pinned(client, elements).span().data()));
}

TEST_CASE("a driver that does not register memory for reading costs readers no array", "[fake]") {
  REQUIRE(::setenv("MUSTER_FAKE_GPU_READ_ONLY_REGISTRATION", "0", 1) == 0);
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto ref = pinned_of(client, values);
  CHECK_FALSE(is_view_pinned(ref));
  CHECK(muster::test::floats(ref) == values);
  CHECK(muster::test::floats(ref.to(Device::cuda(0)).value().to(Device::cpu()).value()) == values);
  CHECK(Client::is_pinned(pinned(client).span().data()));
}

TEST_CASE("a reader pins what it reads once it uses a GPU") {
  const Daemon daemon;
  Reader reader([&](const std::string& text) {
    Client client = daemon.connect();
    const Ref ref = client.deserialize(text).value();
    const bool before = is_view_pinned(ref) || muster::test::floats(ref) != counted();
    const auto gpu = client.allocate<float>({count}, Device::cuda(0));
    return !before && gpu && views_are_pinned_here(ref);
  });
  Client client = daemon.connect();
  CHECK(reader.reads(pinned_of(client, counted())));
}

TEST_CASE("memory that the driver can't pin is refused with its reason, and costs no memory", "[fake]") {
  const Daemon daemon;
  Client client = daemon.connect();
  constexpr std::int64_t elements = 12 << 20;  // 48 MiB, of 64 that may be pinned, and of 256
  {
    const Injection full("call=cuMemHostRegister error=CUDA_ERROR_OUT_OF_MEMORY");
    for (int i = 0; i < 10; ++i) {
      const auto buffer = client.allocate<float>({elements}, Device::pinned(), 10s);
      REQUIRE_FALSE(buffer);
      CHECK(buffer.error().code() == Code::out_of_memory);
      CHECK(buffer.error().message().find("cuMemHostRegister: CUDA_ERROR_OUT_OF_MEMORY") != std::string::npos);
    }
  }
  CHECK(Client::is_pinned(pinned(client, elements).span().data()));
}

TEST_CASE("a reader whose driver refuses to pin reads all the same", "[fake]") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto values = counted();
  const auto ref = pinned_of(client, values);
  const Injection broken("call=cuMemHostRegister error=CUDA_ERROR_OPERATING_SYSTEM");
  CHECK_FALSE(is_view_pinned(ref));
  CHECK(muster::test::floats(ref) == values);
}

TEST_CASE("a process without a GPU is refused pinned memory, reads it, and asks for none") {
  const Daemon daemon;
  Reader reader([&](const std::string& text) {
    ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
    Client client = daemon.connect();
    const auto refused = client.allocate<float>({1}, Device::pinned());
    const bool is_named = !refused && refused.error().message().find("CUDA_ERROR_NO_DEVICE") != std::string::npos;
    return is_named && muster::test::floats(client.deserialize(text).value()) == counted();
  });
  Client client = daemon.connect();
  CHECK(reader.reads(pinned_of(client, counted())));
}

TEST_CASE("a forked child has copies of pinned memory that is not sealed, and can't have more") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = pinned(client);
  const auto values = counted();
  std::ranges::copy(values, buffer.span().begin());
  const auto sealed = pinned_of(client, values);
  const pid_t child = muster::test::in_child([&] {
    const bool has_copy = std::ranges::equal(buffer.span(), values);
    std::ranges::fill(buffer.span(), -1.0F);
    Client own = daemon.connect();
    const auto refused = own.allocate<float>({1}, Device::pinned());
    return has_copy && !Client::is_pinned(buffer.span().data()) && muster::test::floats(sealed) == values && !refused &&
           refused.error().code() == Code::invalid && refused.error().message().find("forked") != std::string::npos;
  });
  CHECK(muster::test::succeeded(child));
  CHECK(std::ranges::equal(buffer.span(), values));
  CHECK(Client::is_pinned(buffer.span().data()));
}
