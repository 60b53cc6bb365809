// Mappings for reading: made once, kept while used, and dropped when there are many.
#include <catch2/catch.hpp>

#include <sys/mman.h>

#include <functional>
#include <map>
#include <vector>

#include "memory/segments.hpp"

namespace {

using muster::detail::SegmentHandle;
using muster::detail::Segments;
namespace ipc = muster::ipc;

constexpr std::uint64_t bytes = 8192;

struct Fetcher {
  std::map<std::uint32_t, int> fetched;
  std::vector<std::uint32_t> unmapped;
  std::function<void()> while_fetching;
  std::uint64_t keep = std::uint64_t{1} << 40;
  muster::detail::OrderedMutex mutex{muster::detail::Rank::memory};
  muster::detail::PinLimit pins{0};
  Segments segments{mutex,
                    [this](ipc::SegmentId id) -> muster::Result<SegmentHandle> {
                      ++fetched[id.value];
                      if (while_fetching) while_fetching();
                      auto fd = ipc::create_memfd("test", bytes).value();
                      auto writable = ipc::Mapping::map(fd, bytes, ipc::Access::read_write).value();
                      writable.data()[0] = std::byte{static_cast<unsigned char>(id.value)};
                      return SegmentHandle{std::move(fd), bytes};
                    },
                    [this](ipc::SegmentId id) { unmapped.push_back(id.value); }, [this] { return keep; }, pins};
};

TEST_CASE("a segment is fetched and mapped once") {
  Fetcher fetcher;
  const auto* first = fetcher.segments.use({7}).value();
  CHECK(first[0] == std::byte{7});
  CHECK(fetcher.segments.use({7}).value() == first);
  CHECK(fetcher.fetched[7] == 1);
}

TEST_CASE("unused mappings are dropped when there are many, used ones never") {
  Fetcher fetcher;
  const auto* used = fetcher.segments.use({1}).value();
  for (std::uint32_t id = 2; id < 5000; ++id) {
    REQUIRE(fetcher.segments.use({id}));
    fetcher.segments.unuse({id});
  }
  CHECK(fetcher.segments.use({1}).value() == used);
  CHECK(fetcher.fetched[1] == 1);
  REQUIRE(fetcher.segments.use({4999}));
  CHECK(fetcher.fetched[4999] == 1);
  REQUIRE(fetcher.segments.use({2}));
  CHECK(fetcher.fetched[2] == 2);
}

TEST_CASE("unused mappings are dropped when they are large, the least recently used first") {
  Fetcher fetcher;
  fetcher.keep = 8 * bytes;
  for (std::uint32_t id = 1; id <= 9; ++id) REQUIRE(fetcher.segments.use({id}));
  for (std::uint32_t id = 1; id <= 8; ++id) fetcher.segments.unuse({id});
  CHECK(fetcher.unmapped.empty());
  fetcher.segments.unuse({9});
  CHECK(fetcher.unmapped == std::vector<std::uint32_t>{1, 2, 3});
  // While others wait for memory no unused mapping stays.
  REQUIRE(fetcher.segments.use({5}));
  fetcher.keep = 0;
  fetcher.segments.unuse({5});
  CHECK(fetcher.unmapped == std::vector<std::uint32_t>{1, 2, 3, 4, 6, 7, 8, 9, 5});
}

TEST_CASE("a segment that goes back is forgotten, unless it is in use") {
  Fetcher fetcher;
  CHECK(fetcher.segments.forget({1}));
  REQUIRE(fetcher.segments.use({1}));
  REQUIRE(fetcher.segments.use({1}));
  fetcher.segments.unuse({1});
  CHECK_FALSE(fetcher.segments.forget({1}));
  fetcher.segments.unuse({1});
  CHECK(fetcher.segments.forget({1}));
  REQUIRE(fetcher.segments.use({1}));
  CHECK(fetcher.fetched[1] == 2);
}

TEST_CASE("a segment that is gone counts as mapped until its last user has let go, and serves no new one") {
  Fetcher fetcher;
  const auto* data = fetcher.segments.use({1}).value();
  fetcher.segments.gone({1});
  CHECK(fetcher.unmapped.empty());
  CHECK(data[0] == std::byte{1});
  CHECK(fetcher.segments.use({1}).error().code() == muster::Code::invalid);
  fetcher.segments.unuse({1});
  CHECK(fetcher.unmapped == std::vector<std::uint32_t>{1});
}

TEST_CASE("a segment that is gone and has no user is unmapped at once") {
  Fetcher fetcher;
  fetcher.segments.gone({1});
  REQUIRE(fetcher.segments.use({2}));
  fetcher.segments.unuse({2});
  fetcher.segments.gone({2});
  CHECK(fetcher.unmapped == std::vector<std::uint32_t>{1, 2});
}

TEST_CASE("a segment that is gone while it is being mapped counts as mapped, too") {
  Fetcher fetcher;
  fetcher.while_fetching = [&] { fetcher.segments.gone({1}); };
  CHECK(fetcher.segments.use({1}).value()[0] == std::byte{1});
  CHECK(fetcher.unmapped.empty());
  fetcher.segments.unuse({1});
  CHECK(fetcher.unmapped == std::vector<std::uint32_t>{1});
}

TEST_CASE("writes to a private mapping are visible nowhere else") {
  Fetcher fetcher;
  auto copy = fetcher.segments.map_private({9}, 0, bytes).value();
  copy.data()[0] = std::byte{1};
  CHECK(fetcher.segments.use({9}).value()[0] == std::byte{9});
  CHECK(fetcher.segments.map_private({9}, 0, bytes).value().data()[0] == std::byte{9});
}

}  // namespace
