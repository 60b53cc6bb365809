// A fake machine with ranks that are processes.
#pragma once

#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "fake/cuda/tests/machine.hpp"
#include "nccl_api.hpp"

namespace fake_nccl::testing {

using conformance::Op;
using conformance::Peer;
using conformance::Request;
using fake_gpu::testing::contains;
using fake_gpu::testing::Machine;
using fake_gpu::testing::part_of;

inline std::uint64_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }
inline float value_of(std::uint64_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits)); }

/// Processes with a device each, one for each rank.
class Ranks {
 public:
  explicit Ranks(int number) {
    for (int rank = 0; rank < number; ++rank) peers_.push_back(std::make_unique<Peer>(rank));
  }
  Peer& operator[](int rank) { return *peers_.at(static_cast<std::size_t>(rank)); }
  void each(const std::function<void(Peer&)>& function) {
    for (auto& peer : peers_) function(*peer);
  }
  /// Begins to make a communicator of `ranks` ranks.
  void begin_init(std::uint64_t ranks) {
    const auto id = (*this)[0].ask(Op::nccl_unique_id);
    REQUIRE(id.code == ncclSuccess);
    Request request{Op::nccl_init, ranks, 0, {}};
    std::memcpy(request.payload, id.payload, sizeof(request.payload));
    each([&](Peer& peer) {
      CHECK(peer.ask(request).code == ncclInProgress);
      ++request.b;
    });
  }
  void meet() {
    begin_init(peers_.size());
    each([](Peer& peer) { REQUIRE(peer.code(Op::nccl_settle) == ncclSuccess); });
  }
  /// Lets all call an op, so that they are connected.
  void connect() {
    each([](Peer& peer) { CHECK(peer.code(Op::nccl_add, 1, bits(1)) == ncclInProgress); });
    each([&](Peer& peer) {
      CHECK(peer.code(Op::nccl_settle) == ncclSuccess);
      CHECK(value_of(peer.ask(Op::nccl_wait).value) == static_cast<float>(peers_.size()));
    });
  }
  void destroy() {
    each([](Peer& peer) { peer.tell({Op::nccl_destroy, 0, 0, {}}); });
    each([](Peer& peer) { CHECK(peer.hear().code == ncclSuccess); });
  }
  void abort() {
    each([](Peer& peer) { CHECK(peer.code(Op::nccl_abort) == ncclSuccess); });
  }

 private:
  std::vector<std::unique_ptr<Peer>> peers_;
};

/// One rank calls an op, which hangs then.
inline void hang(Peer& peer, std::uint64_t count = 1) {
  CHECK(peer.code(Op::nccl_add, count, bits(1)) == ncclInProgress);
  CHECK(peer.code(Op::nccl_settle) == ncclSuccess);
  CHECK(peer.ask(Op::nccl_is_idle).value == 0);
}

}  // namespace fake_nccl::testing
