// Failures of NCCL's calls on demand.
#include "ranks.hpp"

using namespace fake_nccl::testing;

TEST_CASE("a call fails with the code that the file says") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  machine.inject("call=ncclCommInitRankConfig device=1 error=ncclSystemError once\n");
  CHECK(ranks[1].code(Op::nccl_init, 1, 0) == ncclSystemError);
  ranks.meet();
  machine.inject("call=ncclAllReduce error=ncclInternalError once\n");
  CHECK(ranks[0].code(Op::nccl_add, 1, bits(1)) == ncclInternalError);
  ranks.connect();
  ranks.destroy();
}

TEST_CASE("a code of NCCL's concerns no call of CUDA's, and one of CUDA's is a CUDA error to NCCL") {
  const Machine machine;
  Peer peer;
  machine.inject("error=ncclSystemError\n");
  CHECK(peer.code(Op::allocate_more) == 0);
  CHECK(peer.code(Op::nccl_init_odd) == ncclSystemError);
  machine.inject("call=ncclCommInit* out-of-memory\n");
  CHECK(peer.code(Op::nccl_init_odd) == ncclUnhandledCudaError);
  machine.inject("call=cuMemCreate out-of-memory\n");
  REQUIRE(peer.code(Op::nccl_init_odd) == ncclSuccess);
  CHECK(peer.code(Op::nccl_memory) == ncclUnhandledCudaError);
  CHECK(peer.code(Op::nccl_destroy) == ncclSuccess);
}

TEST_CASE("a call hangs until the file changes, an abort, too") {
  const Machine machine;
  Peer peer;
  REQUIRE(peer.code(Op::nccl_init_odd) == ncclSuccess);
  machine.inject("call=ncclCommAbort hang\n");
  peer.tell({Op::nccl_abort, 0, 0, {}});
  CHECK_FALSE(peer.answers(100));
  machine.inject("");
  CHECK(peer.hear().code == ncclSuccess);
}

TEST_CASE("an init stalls in the background, and goes on or is aborted") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  machine.inject("call=ncclCommInitRankConfig stall\n");
  for (const bool aborts : {true, false}) {
    ranks.begin_init(2);
    ranks.each([](Peer& peer) { CHECK(peer.code(Op::nccl_state) == ncclInProgress); });
    if (aborts) ranks.abort();
  }
  machine.inject("");
  ranks.each([](Peer& peer) { CHECK(peer.code(Op::nccl_settle) == ncclSuccess); });
  ranks.destroy();
}

TEST_CASE("an op stalls in its stream, and goes on or is aborted") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  for (const bool aborts : {true, false}) {
    ranks.meet();
    ranks.connect();
    machine.inject("call=ncclAllReduce device=0 stall\n");
    ranks.each([](Peer& peer) { hang(peer); });
    if (aborts) ranks.abort();
    machine.inject("");
  }
  ranks.each([](Peer& peer) { CHECK(value_of(peer.ask(Op::nccl_wait).value) == 2); });
  ranks.destroy();
}

TEST_CASE("the communicator has an error when its nth op runs, which hangs") {
  const Machine machine("devices = 2\n");
  Ranks ranks(2);
  ranks.meet();
  machine.inject("call=ncclAllReduce device=1 nth=2 later=ncclRemoteError\n");
  ranks.connect();
  ranks.each([](Peer& peer) { CHECK(peer.code(Op::nccl_add, 1, bits(1)) == ncclInProgress); });
  auto code = ranks[1].code(Op::nccl_state);
  while (code == ncclSuccess || code == ncclInProgress) code = ranks[1].code(Op::nccl_state);
  CHECK(code == ncclRemoteError);
  CHECK(ranks[0].code(Op::nccl_settle) == ncclSuccess);
  for (int rank = 0; rank < 2; ++rank) CHECK(ranks[rank].ask(Op::nccl_is_idle).value == 0);
  ranks.abort();
}
