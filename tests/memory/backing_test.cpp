// What every backing of segments must do, and how the table handles memory without an address on the host.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory/client_side.hpp"
#include "memory/quotas.hpp"
#include "memory/result_pool.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Result;

namespace {

constexpr Payer owner{1000, {1}};
constexpr std::uint64_t bytes = 3 * 4096;

SegmentMemoryPtr make(SegmentSpec::Writer writer, bool hard = false) {
  auto made = backing().create({.id = {7}, .bytes = bytes, .writer = writer, .hard = hard});
  REQUIRE(made);
  return *made;
}

bool all_are(std::span<const std::byte> memory, std::byte value) {
  return std::all_of(memory.begin(), memory.end(), [&](std::byte byte) { return byte == value; });
}

/// Memory of a device, as the daemon sees it: clients map its descriptor, and it has no address on the host.
class DeviceMemory final : public SegmentMemory {
 public:
  explicit DeviceMemory(muster::ipc::Fd fd) : fd_(std::move(fd)) {}
  [[nodiscard]] int descriptor() const noexcept override { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return {}; }
  void close_descriptor() noexcept override { FAIL("it is not mapped: closing it may take long"); }
  [[nodiscard]] Result<void> seal() override { return {}; }
  [[nodiscard]] Result<void> seal_hard() override { return muster::Error(Code::invalid, "the driver has no seals"); }
  [[nodiscard]] bool populate(std::uint64_t, std::uint64_t) noexcept override { return false; }

 private:
  muster::ipc::Fd fd_;
};

class DeviceBacking final : public SegmentBacking {
 public:
  static constexpr std::uint64_t unit_bytes = 2 << 20;
  [[nodiscard]] Limits limits() const noexcept override { return {unit_bytes, std::uint64_t{1} << 36}; }
  [[nodiscard]] Result<SegmentMemoryPtr> create(const SegmentSpec& spec) override {
    auto fd = muster::ipc::create_memfd("device", spec.bytes);
    if (!fd) return fd.error();
    return SegmentMemoryPtr(std::make_shared<DeviceMemory>(std::move(*fd)));
  }
};

struct DeviceWorld {
  DeviceBacking device;
  Ledger ledger{memory_quota(64 * mebibyte)};
  int populated = 0;
  std::vector<Remains> remains;
  SegmentTable table{ledger,
                     device,
                     {.mapped = [this](const SegmentMemoryPtr&) { ++populated; },
                      .dispose =
                          [this](UserId, Remains left, std::function<void()> then) {
                            remains.push_back(std::move(left));
                            then();
                          }}};
};

}  // namespace

TEST_CASE("the daemon's own segment is there at once and all zero") {
  const auto memory = make(SegmentSpec::Writer::daemon);
  REQUIRE(memory->host().size() == bytes);
  CHECK(reinterpret_cast<std::uintptr_t>(memory->host().data()) % 64 == 0);
  CHECK(all_are(memory->host(), std::byte{0}));
  std::fill(memory->host().begin(), memory->host().end(), std::byte{9});
  memory->close_descriptor();
  CHECK(memory->descriptor() == -1);
  CHECK(all_are(memory->host(), std::byte{9}));
}

TEST_CASE("the daemon reads what a client writes once it is sealed, and what it writes later") {
  Ledger ledger(memory_quota(mebibyte));
  SegmentTable table(ledger, backing());
  const auto segment = table.lease(owner, bytes, false).value();
  const auto& memory = segment->memory();
  CHECK(memory->host().empty());
  const auto writer = WriterMapping::map(*segment, segment->descriptors());
  std::memset(writer.data(), 1, bytes);
  REQUIRE(memory->seal());
  REQUIRE(memory->host().size() == bytes);
  CHECK(all_are(memory->host(), std::byte{1}));
  std::memset(writer.data(), 2, bytes);
  CHECK(all_are(memory->host(), std::byte{2}));
}

TEST_CASE("pages may be made present at any time, and keep their bytes") {
  const auto memory = make(SegmentSpec::Writer::daemon);
  std::fill(memory->host().begin(), memory->host().end(), std::byte{5});
  static_cast<void>(memory->populate(0, bytes));
  static_cast<void>(memory->populate(4096, 4096));
  CHECK(all_are(memory->host(), std::byte{5}));
}

TEST_CASE("a segment on a device is leased, becomes ready and ends without an address on the host") {
  DeviceWorld world;
  {
    const auto segment = world.table.lease(owner, 1, false).value();
    CHECK(segment->bytes() == DeviceBacking::unit_bytes);
    CHECK(segment->descriptors().size() == 1);
    REQUIRE(seal_now(world.table.mapped(owner.client, segment->id())));
    CHECK(segment->state() == Segment::State::ready);
    CHECK(segment->data() == nullptr);
    CHECK(segment->at(4096) == nullptr);
    CHECK(world.table.readable(segment->id(), owner.user));
    CHECK(world.table.owned(segment->id(), owner.client));
  }
  CHECK(world.populated == 0);
  world.table.drop_client(owner.client);
  REQUIRE(world.remains.size() == 1);
  CHECK(world.remains.front().memory->descriptor() >= 0);  // its destroyer closes it
  CHECK(holds_nothing(world.ledger));
}

TEST_CASE("results on a device are made once and used again") {
  DeviceWorld world;
  ResultPool pool(world.table);
  SegmentId first;
  for (int round = 0; round < 3; ++round) {
    auto region = pool.book(owner.user, 1000);
    REQUIRE(region);
    CHECK(ResultPool::is_made(*region) == (round > 0));
    REQUIRE(pool.make(*region));
    CHECK(ResultPool::is_made(*region));
    CHECK(region->place().memory->host().empty());
    if (round == 0) first = region->segment();
    CHECK(region->segment() == first);
  }
  CHECK(pool.trim() == DeviceBacking::unit_bytes);
  CHECK(holds_nothing(world.ledger));
}
