// Objects against the real daemon: allocate, seal, read, pickle, split, drop.
#include <catch2/catch.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <numeric>
#include <thread>

#include "core/connection.hpp"
#include "../daemon.hpp"
#include "ops/holds.hpp"
#include "ops/objects.hpp"
#include "core/requests.hpp"

namespace {

using muster::Client;
using muster::Code;
using muster::DType;
using muster::Ref;
using namespace muster::test;
using namespace std::chrono_literals;
namespace wire = muster::ipc::wire;

/// The daemon's own figures, after it has read everything that this client wrote.
struct Status {
  std::uint64_t objects = 0;
  std::uint64_t deposited = 0;
  std::uint64_t copied = 0;
  std::uint64_t memory_used = 0;
};
Status status(const Client& client) {
  auto packet = muster::detail::ask(*client.connection(), wire::Body_StatusQuery, 10s, [](auto& fbb) {
                  return wire::CreateStatusQuery(fbb).Union();
                }).value();
  const auto* reply = wire::GetFrame(packet.bytes.data())->body_as_StatusReply();
  return {reply->objects(), reply->bytes_deposited(), reply->bytes_copied(), reply->memory_used_bytes()};
}

/// Whether a child may write to this address, according to /proc.
std::string permissions(const void* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    char flags[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, flags) != 3) continue;
    const auto value = reinterpret_cast<unsigned long>(address);
    if (value >= begin && value < end) return flags;
  }
  return "";
}

TEST_CASE("a view is read with its own dtype") {
  const Daemon daemon;
  Client client = daemon.connect();
  const std::vector<std::int32_t> values{1, 2, 3, 4};
  auto view = client.put(std::span<const std::int32_t>(values)).value().get().value().front();
  CHECK(view.span<std::int32_t>().size() == 4);
  CHECK(view.span<std::byte>().size() == 16);
  CHECK(view.span<double>().empty());
  CHECK(view.span<float>().empty());
  CHECK(view.span<std::uint32_t>().empty());
  const auto half = client.allocate_raw(muster::DType::bfloat16, {3}).value().seal().value().get().value().front();
  CHECK(half.span<std::uint16_t>().size() == 3);
  CHECK(half.span<float>().empty());
}

TEST_CASE("moved-from objects are empty") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = client.allocate<float>({2, 3}).value();
  const auto moved = std::move(buffer);
  CHECK(moved.span().size() == 6);
  CHECK(buffer.span().empty());
  CHECK(buffer.span().data() == nullptr);
  auto sealed = client.allocate<float>({4}).value();
  const auto ref = std::move(sealed).seal().value();
  CHECK(sealed.span().empty());
  auto view = ref.get().value().front();
  const auto view_moved = std::move(view);
  CHECK(view_moved.span<float>().size() == 4);
  CHECK(view.span<float>().empty());
  CHECK(view.data() == nullptr);
  CHECK(muster::ArrayView().count() == 0);
  CHECK(muster::Buffer<float>().span().empty());
}

TEST_CASE("an array written in place is read back without a copy") {
  const Daemon daemon;
  Client client = daemon.connect();
  const Ref ref = filled(client, 1000, 2.5F);
  CHECK(ref.nbytes() == 4000);
  CHECK(ref.dtype() == DType::float32);
  CHECK(ref.shape() == muster::Shape{1000});
  CHECK(floats(ref) == std::vector<float>(1000, 2.5F));
  const auto seen = status(client);
  CHECK(seen.objects == 1);
  CHECK(seen.deposited == 4000);
  CHECK(seen.copied == 0);
}

TEST_CASE("views are read-only, even of a process's own objects") {
  const Daemon daemon;
  Client client = daemon.connect();
  const Ref ref = filled(client, 10'000, 1);
  const auto views = ref.get().value();
  CHECK(permissions(views.front().data()) == "r--s");
}

TEST_CASE("put copies once and says so") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::vector<std::int64_t> values(100);
  std::iota(values.begin(), values.end(), 0);
  const Ref ref = client.put<std::int64_t>(values).value();
  values.assign(100, -1);
  CHECK(ref.get().value().front().span<std::int64_t>()[99] == 99);
  CHECK(status(client).copied == 800);
}

TEST_CASE("arrays of every dtype, with no dimensions and with no elements") {
  const Daemon daemon;
  Client client = daemon.connect();
  for (std::size_t number = 0; number < muster::dtype_count; ++number) {
    const auto dtype = static_cast<DType>(number);
    for (const muster::Shape& shape :
         {muster::Shape{}, muster::Shape{0}, muster::Shape{3, 0, 2}, muster::Shape{2, 3}}) {
      auto buffer = client.allocate_raw(dtype, shape).value();
      const Ref ref = std::move(buffer).seal().value();
      const auto views = ref.get().value();
      REQUIRE(views.size() == 1);
      CHECK(views.front().dtype() == dtype);
      CHECK(views.front().shape() == shape);
      CHECK(views.front().data() != nullptr);
    }
  }
}

TEST_CASE("a bundle keeps its arrays and its structure") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::vector<muster::RawBuffer> buffers;
  for (int i = 1; i <= 3; ++i) {
    auto buffer = client.allocate_raw(DType::int32, {i}).value();
    static_cast<std::int32_t*>(buffer.data())[i - 1] = i;
    buffers.push_back(std::move(buffer));
  }
  const Ref ref = client.seal_bundle(std::move(buffers), "three of them").value();
  CHECK(ref.structure() == "three of them");
  REQUIRE(ref.leaves() == 3);
  const auto views = ref.get().value();
  for (int i = 1; i <= 3; ++i) CHECK(views[static_cast<std::size_t>(i - 1)].span<std::int32_t>().back() == i);
}

TEST_CASE("a bundle that is too large for the ring still travels") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::vector<muster::RawBuffer> buffers;
  constexpr std::size_t count = 6000;
  for (std::size_t i = 0; i < count; ++i) {
    auto buffer = client.allocate_raw(DType::int32, {1}).value();
    *static_cast<std::int32_t*>(buffer.data()) = static_cast<std::int32_t>(i);
    buffers.push_back(std::move(buffer));
  }
  const Ref ref = client.seal_bundle(std::move(buffers), {}).value();
  auto work = client.allreduce_refs(std::vector<Ref>{ref, ref}).value();
  const Ref sum = work.ref(10s).value();
  CHECK(sum.leaves() == count);
  CHECK(sum.get().value().at(5999).span<std::int32_t>()[0] == 2 * 5999);
}

TEST_CASE("impossible shapes are Invalid") {
  const Daemon daemon;
  Client client = daemon.connect();
  CHECK(client.allocate_raw(DType::int8, {-1}).error().code() == Code::invalid);
  CHECK(client.allocate_raw(DType::float64, {1LL << 40, 1LL << 40}).error().code() == Code::invalid);
  CHECK(std::move(client.allocate_raw(DType::int8, {4}).value()).seal());
}

TEST_CASE("a structure without bounds is refused here, and the client lives on") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::vector<muster::RawBuffer> buffers;
  buffers.push_back(client.allocate_raw(DType::int8, {1}).value());
  const auto sealed = client.seal_bundle(std::move(buffers), std::string(5 << 20, 'x'));
  CHECK(sealed.error().code() == Code::invalid);
  CHECK(floats(filled(client, 3, 1)).size() == 3);
}

TEST_CASE("a full store gives OutOfMemory, and freed memory is used again") {
  const Daemon daemon("64MiB");
  Client client = daemon.connect();
  std::vector<Ref> refs;
  muster::Result<muster::Buffer<float>> last = client.allocate<float>({4 << 20}, 0s);
  while (last) {
    refs.push_back(std::move(*last).seal().value());
    REQUIRE(refs.size() < 8);
    last = client.allocate<float>({4 << 20}, 0s);
  }
  CHECK(last.error().code() == Code::out_of_memory);
  CHECK(refs.size() >= 2);
  refs.clear();
  CHECK(client.allocate<float>({4 << 20}, 10s));
}

TEST_CASE("a client that waits for memory gets what others free in its own segments") {
  const Daemon daemon("64MiB");
  Client client = daemon.connect();
  std::vector<Ref> refs;
  for (auto made = client.allocate<float>({4 << 20}, 0s); made; made = client.allocate<float>({4 << 20}, 0s))
    refs.push_back(std::move(*made).seal().value());
  std::atomic<bool> served = false;
  std::thread waiter([&] { served = client.allocate<float>({4 << 20}, 20s).ok(); });
  refs.clear();
  waiter.join();
  CHECK(served);
}

TEST_CASE("dropped refs free their objects, and a loop of them needs little memory") {
  const Daemon daemon;
  Client client = daemon.connect();
  for (int i = 0; i < 5000; ++i) static_cast<void>(filled(client, 1000, 1));
  // The daemon reads a request after everything that was written before it.
  CHECK(status(client).objects == 0);
  CHECK(status(client).memory_used < 5000 * 4000 / 2);
}

TEST_CASE("a view outlives its ref, and the client object") {
  const Daemon daemon;
  std::vector<muster::ArrayView> views;
  {
    Client client = daemon.connect();
    views = filled(client, 50, 4).get().value();
  }
  Client client = daemon.connect();
  for (int i = 0; i < 100; ++i) static_cast<void>(filled(client, 50, 9));
  CHECK(views.front().span<float>()[49] == 4);
}

TEST_CASE("a serialized ref is about 100 bytes and can be read any number of times, by other processes, too") {
  const Daemon daemon;
  Client client = daemon.connect();
  Ref ref = filled(client, 100, 3);
  const std::string bytes = ref.serialize().value();
  CHECK(bytes.size() < 160);
  for (int i = 0; i < 3; ++i) CHECK(floats(client.deserialize(bytes).value())[99] == 3);
  ref.free();
  // Now only the pickle keeps it.
  const pid_t reader = in_child([&] { return floats(daemon.connect().deserialize(bytes).value())[0] == 3; });
  CHECK(succeeded(reader));
}

TEST_CASE("bytes that are not a ref, or name another object or another daemon, give typed errors") {
  const Daemon daemon;
  Client client = daemon.connect();
  const Ref ref = filled(client, 10, 1);
  const std::string bytes = ref.serialize().value();
  CHECK(client.deserialize("").error().code() == Code::invalid);
  CHECK(client.deserialize(std::string(200, 'x')).error().code() == Code::invalid);
  std::string other = bytes;
  other[24] = static_cast<char>(other[24] ^ 1);  // the capability
  CHECK(client.deserialize(other).error().code() == Code::denied);
  other = bytes;
  other[16] = static_cast<char>(other[16] ^ 64);  // the object
  CHECK(client.deserialize(other).error().code() == Code::object_lost);
  other = bytes;
  other[8] = static_cast<char>(other[8] ^ 1);  // the incarnation
  CHECK(client.deserialize(other).error().code() == Code::daemon_restarted);
  CHECK(client.deserialize(bytes));
}

TEST_CASE("rows of an array are a separate object that keeps the whole") {
  const Daemon daemon;
  Client client = daemon.connect();
  auto buffer = client.allocate<float>({4, 3}).value();
  std::iota(buffer.span().begin(), buffer.span().end(), 0.0F);
  Ref whole = std::move(buffer).seal().value();
  const Ref rows = muster::detail::slice(whole, 1, 2).value();
  whole.free();
  CHECK(rows.shape() == muster::Shape{2, 3});
  CHECK(floats(rows) == std::vector<float>{3, 4, 5, 6, 7, 8});
  CHECK(muster::detail::slice(rows, 1, 2).error().code() == Code::invalid);
}

TEST_CASE("a part of an object that does not exist fails where it is used, and the connection stays") {
  const Daemon daemon;
  Client client = daemon.connect();
  const Ref whole = filled(client, 16, 1);
  muster::ipc::Manifest beyond;
  REQUIRE(beyond.add(whole.hold()->manifest.leaves[0].segment, 1 << 20, DType::float32, muster::Shape{4}));
  {
    const Ref part = muster::detail::derive(whole, std::move(beyond)).value();
    CHECK(client.connection()->wait([&] { return !part.get(); }, std::chrono::steady_clock::now() + 10s));
  }
  // Its release does not end the connection either, even if it was sent before the client knew of the failure.
  for (int i = 0; i < 100; ++i) {
    muster::ipc::Manifest again;
    REQUIRE(again.add(whole.hold()->manifest.leaves[0].segment, 1 << 20, DType::float32, muster::Shape{4}));
    static_cast<void>(muster::detail::derive(whole, std::move(again)));
  }
  CHECK(status(client).objects == 1);
  CHECK(floats(whole)[15] == 1);
}

TEST_CASE("a hard seal leaves no writable mapping, and its memory comes back") {
  const Daemon daemon;
  Client client = daemon.connect();
  const auto before = status(client).memory_used;
  {
    auto buffer = client.allocate_hard(DType::float32, {1 << 20}).value();
    auto* data = static_cast<float*>(buffer.data());
    data[0] = 7;
    const Ref ref = std::move(buffer).seal().value();
    CHECK(permissions(data) != "rw-s");
    CHECK(floats(ref)[0] == 7);
    CHECK(status(client).memory_used >= before + (4 << 20));
    auto sum = client.allreduce_refs(std::vector<Ref>{ref, ref}).value();
    CHECK(floats(sum.ref(10s).value())[0] == 14);
    { const auto dropped = client.allocate_hard(DType::float32, {1 << 20}).value(); }
  }
  constexpr std::uint64_t result_bytes = 4 << 20;
  const auto most = before + result_bytes;
  CHECK(client.connection()->wait([&] { return status(client).memory_used <= most; },
                                  std::chrono::steady_clock::now() + 10s));
}

TEST_CASE("a token keeps an object until it ends, whoever ends it") {
  const Daemon daemon;
  Client client = daemon.connect();
  Ref ref = filled(client, 16, 1);
  {
    muster::Token token = client.open_token("task 1").value();
    CHECK(token.name() == "task 1");
    REQUIRE(ref.keep_for("task 1"));
    ref.free();
    CHECK(status(client).objects == 1);
    SECTION("the token's own end()") { REQUIRE(token.end()); }
    SECTION("another process, or another part of this one") { REQUIRE(client.end_token("task 1")); }
    SECTION("the end of the Token, to which it was moved") { muster::Token moved = std::move(token); }
    SECTION("another token that takes its place") { token = client.open_token("task 2").value(); }
    const auto ended = token.open() && token.name() == "task 1" ? token.end() : client.end_token("task 1");
    REQUIRE_FALSE(ended);
    CHECK(ended.error().code() == Code::invalid);
  }
  CHECK(status(client).objects == 0);
  ref = filled(client, 16, 1);
  const auto late = ref.keep_for("task 1");
  REQUIRE_FALSE(late);
  CHECK(late.error().message() == "no token 'task 1' is open: it has ended, or nobody opened it");
}

TEST_CASE("many threads make and drop objects at once") {
  const Daemon daemon;
  Client client = daemon.connect();
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int number = 0; number < 4; ++number)
    threads.emplace_back([&, number] {
      for (int i = 0; i < 500; ++i) {
        const Ref ref = filled(client, 200, static_cast<float>(number));
        if (floats(ref) != std::vector<float>(200, static_cast<float>(number))) ++wrong;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(status(client).objects == 0);
}

}  // namespace
