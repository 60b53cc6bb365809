// What a client does with a lease: it maps it for writing and says so. And what the daemon does for results.
#pragma once

#include <catch2/catch.hpp>

#include "memory/backings.hpp"
#include "memory/segment_table.hpp"

namespace musterd::testing {

struct ClientSide {
  SegmentPtr segment;
  WriterMapping mapping;
};

/// What the daemon does for a request that seals: it begins, works in another thread, and finishes.
inline muster::Result<void> seal_now(muster::Result<SegmentTable::Sealing> sealing) {
  if (!sealing) return sealing.error();
  sealing->work();
  return sealing->finish();
}

inline ClientSide lease_and_map(SegmentTable& table, Payer payer, std::uint64_t bytes, bool hard = false) {
  auto segment = table.lease(payer, {.bytes = bytes, .hard = hard});
  REQUIRE(segment);
  auto mapping = WriterMapping::map(**segment, (*segment)->descriptors());
  REQUIRE(seal_now(table.mapped(payer.client, (*segment)->id())));
  return {*segment, std::move(mapping)};
}

inline SegmentPtr result_segment(SegmentTable& table, UserId user, std::uint64_t bytes) {
  auto segment = table.book_result(user, bytes);
  REQUIRE(segment);
  REQUIRE(table.make_result(*segment));
  return *segment;
}

}  // namespace musterd::testing
