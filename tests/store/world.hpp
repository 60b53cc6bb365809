// A store over real segments, with clients that seal arrays in them.
#pragma once

#include <catch2/catch.hpp>

#include <cstring>
#include <unordered_map>
#include <vector>

#include "memory/client_side.hpp"
#include "memory/quotas.hpp"
#include "store/store.hpp"

namespace musterd::testing {

namespace ipc = muster::ipc;

inline constexpr std::uint64_t page = 4096;
inline constexpr TimePoint start{std::chrono::hours(1)};
inline constexpr Capability secret{{11, 22}};

/// As random as a daemon's: with a small number, all objects would have neighbouring hashes.
inline constexpr std::uint64_t hash_secret = 0x9e3779b97f4a7c15;

/// One array of float32.
inline Manifest array(SegmentId segment, std::uint64_t offset, std::int64_t count) {
  Manifest manifest;
  REQUIRE(manifest.add(segment, offset, muster::DType::float32, std::vector{count}));
  return manifest;
}

struct StoreWorld {
  explicit StoreWorld(Store::Limits limits = {}, Quota quota = memory_quota(256 * mebibyte))
      : ledger(quota),
        segments(ledger, backing(),
                 {.mapped = {},
                  .dispose =
                      [this](UserId, Remains remains, std::function<void()> then) {
                        if (!remains.description || !keeps_remains) return then();
                        descriptions.push_back(std::move(remains.description));
                        disposals.push_back(std::move(then));
                      }}),
        results(segments),
        store(ledger, segments, limits, hash_secret) {}

  /// Returns a ready segment of the client.
  SegmentId segment_of(Payer client, std::uint64_t bytes = 16 * page) {
    return lease_and_map(segments, client, bytes).segment->id();
  }
  muster::Result<ObjectPtr> try_seal(Payer client, Manifest manifest, ObjectId parent = {}) {
    return store.seal(client, ipc::make_object_id(client.client, ++counters[client.client]), secret, parent, 0,
                      std::move(manifest), now);
  }
  ObjectId seal(Payer client, Manifest manifest, ObjectId parent = {}) {
    auto made = try_seal(client, std::move(manifest), parent);
    if (!made) FAIL(made.error().describe());
    return (*made)->id;
  }
  ObjectPtr result(UserId user, std::int64_t count) {
    auto region = results.allocate(user, static_cast<std::uint64_t>(count) * sizeof(float));
    REQUIRE(region);
    auto manifest = array(region->segment(), region->offset(), count);
    auto made = store.add_result(user, secret, std::move(manifest), std::move(*region), now);
    REQUIRE(made);
    return *made;
  }
  std::vector<ObjectId> gone() {
    std::vector<ObjectId> ids;
    while (const auto gone = store.take_gone()) ids.push_back(gone->id);
    return ids;
  }

  bool keeps_remains = false;  ///< keeps the remains of objects
  std::vector<std::shared_ptr<void>> descriptions;
  std::vector<std::function<void()>> disposals;
  Ledger ledger;
  SegmentTable segments;
  ResultPool results;
  Store store;
  TimePoint now = start;
  std::unordered_map<ClientId, std::uint32_t> counters;
};

template <class T>
muster::Error error_of(const muster::Result<T>& result) {
  REQUIRE_FALSE(result);
  return result.error();
}
template <class T>
muster::Code code_of(const muster::Result<T>& result) {
  return error_of(result).code();
}

}  // namespace musterd::testing
