#include <catch2/catch.hpp>

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

#include "memory/client_side.hpp"
#include "memory/populator.hpp"
#include "memory/quotas.hpp"

using namespace musterd;
using namespace musterd::testing;

namespace {

constexpr std::uint64_t bytes = 3 * mebibyte + 4096;

std::uint64_t resident_bytes(const SegmentPtr& segment) {
  struct stat status {};
  REQUIRE(::fstat(segment->descriptors().front(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

/// Linux 5.14 has the madvise() flag that the populator needs.
bool kernel_populates() {
  const auto fd = muster::ipc::create_memfd("probe", 4096);
  const auto mapping = muster::ipc::Mapping::map(*fd, 4096, muster::ipc::Access::read_write);
  constexpr int populate_write = 23;
  return ::madvise(mapping->data(), 4096, populate_write) == 0;
}

}  // namespace

TEST_CASE("result segments get their pages in the background", "[memfd]") {
  Populator populator;
  Ledger ledger(memory_quota(64 * mebibyte));
  SegmentTable table(ledger, backing(),
                     {.mapped = [&](const SegmentMemoryPtr& memory) { populator.populate(memory); }, .dispose = {}});
  const auto segment = result_segment(table, 1000, bytes);
  populator.wait_until_idle();
  CHECK((resident_bytes(segment) >= bytes) == kernel_populates());
}

TEST_CASE("client segments get their pages without any change of their bytes", "[memfd]") {
  Populator populator;
  Ledger ledger(memory_quota(64 * mebibyte));
  SegmentTable table(ledger, backing(),
                     {.mapped = [&](const SegmentMemoryPtr& memory) { populator.populate(memory); }, .dispose = {}});
  auto leased = lease_and_map(table, {1000, {1}}, bytes);
  std::fill_n(leased.mapping.data(), bytes / 2, std::byte{9});
  populator.wait_until_idle();
  CHECK((resident_bytes(leased.segment) >= bytes) == kernel_populates());
  const auto* data = leased.segment->data();
  CHECK(std::all_of(data, data + bytes / 2, [](std::byte byte) { return byte == std::byte{9}; }));
  CHECK(std::all_of(data + bytes / 2, data + bytes, [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST_CASE("segments may end while they are populated, and the populator while it has work") {
  Ledger ledger(memory_quota(512 * mebibyte));
  for (int round = 0; round < 20; ++round) {
    Populator populator;
    SegmentTable table(ledger, backing(),
                       {.mapped = [&](const SegmentMemoryPtr& memory) { populator.populate(memory); }, .dispose = {}});
    for (int i = 0; i < 8; ++i) {
      table.drop_result(result_segment(table, 1000, bytes)->id());
    }
    result_segment(table, 1000, 16 * mebibyte);
  }
  CHECK(holds_nothing(ledger));
}
