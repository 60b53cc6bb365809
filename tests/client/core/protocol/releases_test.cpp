// What the daemon is told of ended holds and mappings: each once, and as much as there is room for.
#include <catch2/catch.hpp>

#include <cstddef>
#include <set>
#include <vector>

#include "core/protocol/releases.hpp"

namespace {

using muster::Code;
using muster::Error;
using muster::detail::Releases;
namespace ipc = muster::ipc;

/// A ring with room for a given number of records.
struct Ring {
  std::size_t room = 1000;
  std::multiset<std::uint64_t> released;
  std::vector<std::uint32_t> unmapped;
  std::size_t records = 0;

  void take_from(Releases& releases) {
    releases.tell([this](ipc::SubmissionType type, std::span<const std::byte> body) {
      if (room == 0) return false;
      --room;
      ++records;
      if (type == ipc::SubmissionType::release) {
        const auto read = ipc::read_release(body);
        for (const auto object : read.value().objects) released.insert(object.value);
        return true;
      }
      unmapped.push_back(ipc::read_unmapped(body).value().segment.value);
      return true;
    });
  }
};

TEST_CASE("holds that ended are told once, many in one record") {
  Releases releases;
  Ring ring;
  CHECK_FALSE(releases.any());
  for (const auto object : {1U, 2U, 2U}) CHECK(releases.hold_ended({object}));
  CHECK(releases.any());
  ring.take_from(releases);
  CHECK(ring.released == std::multiset<std::uint64_t>{1, 2, 2});
  CHECK(ring.records == 1);
  CHECK_FALSE(releases.any());
  ring.take_from(releases);
  CHECK(ring.records == 1);
}

TEST_CASE("no record of releases is larger than the daemon accepts") {
  Releases releases;
  Ring ring;
  for (std::uint64_t object = 0; object < 2 * ipc::Release::objects_max + 1; ++object)
    CHECK(releases.hold_ended({object + 1}));
  ring.take_from(releases);
  CHECK(ring.records == 3);
  CHECK(ring.released.size() == 2 * ipc::Release::objects_max + 1);
}

TEST_CASE("a release that finds no room is told later") {
  Releases releases;
  Ring ring;
  releases.unmapped({1});
  releases.unmapped({2});
  CHECK(releases.hold_ended({3}));
  for (int i = 0; i < 3; ++i) {
    CHECK(releases.any());
    ring.room = 1;
    ring.take_from(releases);
    CHECK(ring.room == 0);
  }
  CHECK_FALSE(releases.any());
  CHECK(ring.unmapped.size() == 2);
  CHECK(ring.released.size() == 1);
}

TEST_CASE("a segment that is mapped again is not told as unmapped") {
  Releases releases;
  Ring ring;
  releases.unmapped({1});
  releases.unmapped({2});
  releases.mapped_again({1});
  ring.take_from(releases);
  CHECK(ring.unmapped == std::vector<std::uint32_t>{2});
}

TEST_CASE("a hold of an object whose seal failed is not released, and its users get the error until it ends") {
  Releases releases;
  CHECK_FALSE(releases.seal_error({1}));
  releases.seal_failed({1}, Error(Code::invalid, "why"));
  CHECK(releases.any_seal_errors());
  CHECK(releases.seal_error({1})->message() == "why");
  CHECK_FALSE(releases.seal_error({2}));
  CHECK_FALSE(releases.hold_ended({1}));
  CHECK_FALSE(releases.any());
  CHECK_FALSE(releases.any_seal_errors());
}

TEST_CASE("the error is dropped when the daemon has read a release that was sent before the error was known") {
  Releases releases;
  CHECK(releases.hold_ended({1}));
  releases.seal_failed({1}, Error(Code::invalid, "why"));
  releases.object_gone({1});
  CHECK_FALSE(releases.any_seal_errors());
}

TEST_CASE("a forked child releases nothing of its parent's") {
  Releases releases;
  Ring ring;
  CHECK(releases.hold_ended({1}));
  releases.unmapped({2});
  releases.inherited();
  CHECK_FALSE(releases.any());
  ring.take_from(releases);
  CHECK(ring.records == 0);
}

}  // namespace
