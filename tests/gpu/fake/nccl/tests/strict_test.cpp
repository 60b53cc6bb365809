// Where NCCL's guide leaves a choice, the fake does what is hardest for a program.
#include "ranks.hpp"

using namespace fake_nccl::testing;

TEST_CASE("ranks that call with another count wait for ever") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  ranks.meet();
  ranks.connect();
  hang(ranks[0], 1);
  hang(ranks[1], 2);
  CHECK(ranks[0].ask(Op::nccl_is_idle).value == 0);
  CHECK(ranks[1].ask(Op::nccl_is_idle).value == 0);
  CHECK(ranks[0].code(Op::nccl_state) == ncclSuccess);
  ranks.abort();
}

TEST_CASE("ranks that don't agree how many they are never meet") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  const auto id = ranks[0].ask(Op::nccl_unique_id);
  for (int rank = 0; rank < 2; ++rank) {
    Request request{Op::nccl_init, static_cast<std::uint64_t>(2 + rank), static_cast<std::uint64_t>(rank), {}};
    std::memcpy(request.payload, id.payload, sizeof(request.payload));
    CHECK(ranks[rank].ask(request).code == ncclInProgress);
  }
  CHECK(ranks[0].code(Op::nccl_state) == ncclInProgress);
  CHECK(ranks[1].code(Op::nccl_state) == ncclInProgress);
  ranks.abort();
}

TEST_CASE("ranks don't meet if the process that made the id has ended") {
  const Machine machine("devices = 3\n");
  Ranks ranks(2);
  conformance::Reply id;
  {
    Peer maker(2);
    id = maker.ask(Op::nccl_unique_id);
  }
  Request request{Op::nccl_init, 2, 0, {}};
  std::memcpy(request.payload, id.payload, sizeof(request.payload));
  CHECK(ranks[0].ask(request).code == ncclInProgress);
  CHECK(ranks[0].code(Op::nccl_settle) == ncclRemoteError);
  CHECK(ranks[0].code(Op::nccl_abort) == ncclSuccess);
}

TEST_CASE("sums don't begin with rank 0") {
  const Machine machine("devices = 3\n");
  Ranks ranks(3);
  ranks.meet();
  // From rank 0 on this is 1; else the 1 is lost, as a float has no room for it beside the others.
  const float values[] = {1e8F, -1e8F, 1};
  for (int rank = 0; rank < 3; ++rank) ranks[rank].code(Op::nccl_add, 1, bits(values[rank]));
  ranks.each([](Peer& peer) {
    CHECK(peer.code(Op::nccl_settle) == ncclSuccess);
    CHECK(value_of(peer.ask(Op::nccl_wait).value) == 0);
  });
  ranks.destroy();
}

TEST_CASE("a send waits for its receive, and two ranks that both send first wait for ever") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  ranks.meet();
  const auto call = [&](int rank, Op op) {
    CHECK(ranks[rank].code(op, static_cast<std::uint64_t>(1 - rank)) == ncclInProgress);
    CHECK(ranks[rank].code(Op::nccl_settle) == ncclSuccess);
  };
  call(0, Op::nccl_send);
  CHECK(ranks[0].ask(Op::nccl_is_idle).value == 0);
  call(1, Op::nccl_receive);
  ranks.each([](Peer& peer) { CHECK(peer.ask(Op::nccl_wait).code == CUDA_SUCCESS); });
  for (const auto op : {Op::nccl_send, Op::nccl_receive})
    for (int rank = 0; rank < 2; ++rank) call(rank, op);
  ranks.each([](Peer& peer) { CHECK(peer.ask(Op::nccl_is_idle).value == 0); });
  ranks.abort();
}

TEST_CASE("one thread with two communicators hangs if it calls for them without a group") {
  const Machine machine("devices = 2\n");
  Peer peer;
  peer.tell({Op::nccl_two_alone, 0, 0, {}});
  CHECK_FALSE(peer.answers(200));
  peer.kill();
}

TEST_CASE("a communicator that was destroyed or aborted is none any more") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  ranks.meet();
  ranks.destroy();
  ranks.each([](Peer& peer) {
    CHECK(peer.code(Op::nccl_state) == ncclInvalidArgument);
    CHECK(peer.code(Op::nccl_destroy) == ncclInvalidArgument);
    CHECK(peer.code(Op::nccl_abort) == ncclInvalidArgument);
  });
}

TEST_CASE("a buffer without rights breaks the context, and the other ranks wait") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  ranks.meet();
  ranks.connect();
  hang(ranks[0]);
  CHECK(ranks[1].code(Op::nccl_add_nowhere) == ncclInProgress);
  CHECK(ranks[1].code(Op::nccl_settle) == ncclSuccess);
  CHECK(ranks[1].ask(Op::nccl_wait).code == CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(ranks[0].ask(Op::nccl_is_idle).value == 0);
  CHECK(ranks[0].code(Op::nccl_abort) == ncclSuccess);
  ranks[1].kill();
}

TEST_CASE("what an aborted op was to write is rubbish") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  ranks.meet();
  ranks.connect();
  hang(ranks[0]);
  ranks[1].code(Op::nccl_abort);
  CHECK(ranks[0].code(Op::nccl_shrink, 1, NCCL_SHRINK_ABORT) == ncclSuccess);
  const auto value = ranks[0].ask(Op::nccl_wait);
  CHECK(value.code == CUDA_SUCCESS);
  CHECK(value.value == 0xa5a5a5a5);
  CHECK(ranks[0].code(Op::nccl_destroy) == ncclSuccess);
}

TEST_CASE("the death of a rank's process is an error of the communicator, and its ops hang on") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  ranks.meet();
  ranks.connect();
  hang(ranks[0]);
  ranks[1].kill();
  auto code = ranks[0].code(Op::nccl_state);
  while (code == ncclSuccess) code = ranks[0].code(Op::nccl_state);
  CHECK(code == ncclRemoteError);
  CHECK(ranks[0].ask(Op::nccl_is_idle).value == 0);
  CHECK(ranks[0].code(Op::nccl_add, 1, bits(1)) == ncclRemoteError);
  CHECK(ranks[0].code(Op::nccl_abort) == ncclSuccess);
}

TEST_CASE("with nccl_deaths = unnoticed, nobody learns of a death") {
  const Machine machine("devices = 2\nnccl_deaths = unnoticed\n");
  Ranks ranks(2);
  ranks.meet();
  ranks.connect();
  ranks[1].kill();
  hang(ranks[0]);
  CHECK(ranks[0].code(Op::nccl_state) == ncclSuccess);
  CHECK(ranks[0].code(Op::nccl_abort) == ncclSuccess);
}

TEST_CASE("a configuration has the size of its version, and isn't newer than the library") {
  const Machine machine;
  Peer peer;
  CHECK(peer.code(Op::nccl_init_odd, 0, 0) == ncclSuccess);
  CHECK(peer.code(Op::nccl_destroy) == ncclSuccess);
  CHECK(peer.code(Op::nccl_init_odd, 8, 0) == ncclInvalidArgument);
  CHECK(peer.code(Op::nccl_init_odd, 0, 100) == ncclInvalidArgument);
}

TEST_CASE("without a context there is no communicator") {
  const Machine machine;
  Peer peer(-1);
  CHECK(peer.code(Op::nccl_init_odd, 0, 0) == ncclUnhandledCudaError);
}
