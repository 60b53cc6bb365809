// NCCL User Guide, "Creating a Communicator", "Fault Tolerance": ranks that are processes.
#include <bit>
#include <csignal>
#include <cstring>
#include <memory>
#include <vector>

#include "nccl.hpp"
#include "peer.hpp"

using namespace conformance;

namespace {

std::uint64_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }

/// Processes with a device each, and a communicator of all; the id is the one of `maker`.
class Peers {
 public:
  explicit Peers(int number) {
    for (int rank = 0; rank < number; ++rank) peers_.push_back(std::make_unique<Peer>(rank));
  }
  [[nodiscard]] Peer& at(int rank) { return *peers_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] int number() const { return static_cast<int>(peers_.size()); }
  /// The ranks are in the order of `members`.
  void meet(const std::vector<int>& members, int maker) {
    const auto id = at(maker).ask(Op::nccl_unique_id);
    REQUIRE(id.code == ncclSuccess);
    Request request{Op::nccl_init, members.size(), 0, {}};
    std::memcpy(request.payload, id.payload, sizeof(request.payload));
    for (const int member : members) {
      CHECK(at(member).ask(request).code == ncclInProgress);
      ++request.b;
    }
    for (const int member : members) REQUIRE(at(member).code(Op::nccl_settle) == ncclSuccess);
  }
  void meet(int maker = 0) {
    std::vector<int> all;
    for (int rank = 0; rank < number(); ++rank) all.push_back(rank);
    meet(all, maker);
  }
  /// All add 1, and so have the same sum.
  void check_sum(const std::vector<int>& members) {
    call(members);
    for (const int member : members) {
      const auto reply = at(member).ask(Op::nccl_wait);
      CHECK(reply.code == CUDA_SUCCESS);
      CHECK(reply.value == bits(static_cast<float>(members.size())));
    }
  }
  void call(const std::vector<int>& members) {
    for (const int member : members) {
      const auto code = at(member).code(Op::nccl_add, 1000, bits(1));
      CHECK((code == ncclSuccess || code == ncclInProgress));
    }
    for (const int member : members) CHECK(at(member).code(Op::nccl_settle) == ncclSuccess);
  }
  void destroy(const std::vector<int>& members) {
    for (const int member : members) at(member).tell({Op::nccl_finalize, 0, 0, {}});
    for (const int member : members) CHECK(at(member).hear().code == ncclSuccess);
    for (const int member : members) CHECK(at(member).code(Op::nccl_destroy) == ncclSuccess);
  }

 private:
  std::vector<std::unique_ptr<Peer>> peers_;
};

}  // namespace

TEST_CASE("processes meet by an id that any of them has made", "[3-gpus]") {
  Peers peers(3);
  for (const int maker : {0, 2}) {
    peers.meet(maker);
    peers.check_sum({0, 1, 2});
    peers.destroy({0, 1, 2});
  }
}

TEST_CASE("without a finalize, a destroy ends a communicator together with the others", "[2-gpus]") {
  Peers peers(2);
  peers.meet();
  peers.check_sum({0, 1});
  for (int rank = 0; rank < 2; ++rank) peers.at(rank).tell({Op::nccl_destroy, 0, 0, {}});
  for (int rank = 0; rank < 2; ++rank) CHECK(peers.at(rank).hear().code == ncclSuccess);
}

TEST_CASE("if a rank's process is killed, the others abort and go on without it", "[3-gpus]") {
  Peers peers(3);
  peers.meet();
  peers.check_sum({0, 1, 2});
  peers.call({0, 1});
  peers.at(2).kill();
  for (const int rank : {0, 1}) CHECK(peers.at(rank).ask(Op::nccl_is_idle).value == 0);
  for (const int rank : {0, 1}) CHECK(peers.at(rank).code(Op::nccl_abort) == ncclSuccess);
  peers.meet({1, 0}, 0);
  peers.check_sum({0, 1});
  peers.destroy({0, 1});
}

TEST_CASE("if a rank's process is killed, the others can shrink the communicator", "[3-gpus][nccl-2.27]") {
  Peers peers(3);
  peers.meet();
  peers.check_sum({0, 1, 2});
  peers.call({0, 2});
  peers.at(1).kill();
  for (const int rank : {0, 2}) peers.at(rank).tell({Op::nccl_shrink, 1, NCCL_SHRINK_ABORT, {}});
  for (const int rank : {0, 2}) CHECK(peers.at(rank).hear().code == ncclSuccess);
  peers.check_sum({0, 2});
  peers.destroy({0, 2});
}

TEST_CASE("an op waits for a rank whose process is stopped", "[2-gpus]") {
  Peers peers(2);
  peers.meet();
  peers.check_sum({0, 1});
  ::kill(peers.at(1).pid(), SIGSTOP);
  peers.call({0});
  CHECK(peers.at(0).ask(Op::nccl_is_idle).value == 0);
  ::kill(peers.at(1).pid(), SIGCONT);
  peers.call({1});
  for (const int rank : {0, 1}) CHECK(peers.at(rank).ask(Op::nccl_wait).value == bits(2));
  peers.destroy({0, 1});
}
