// NCCL User Guide, "Group Calls", "Point-to-point communication", "Point To Point Communication Functions".
#include "gpu.hpp"
#include "nccl.hpp"

using namespace conformance;

namespace {

ncclResult_t start() { return NC(ncclGroupStart)(); }
ncclResult_t end() { return NC(ncclGroupEnd)(); }

}  // namespace

TEST_CASE("a group that hasn't begun can't end") { CHECK(end() == ncclInvalidUsage); }

TEST_CASE("a group may be empty, and contain others") {
  CHECK(start() == ncclSuccess);
  CHECK(start() == ncclSuccess);
  CHECK(end() == ncclSuccess);
  CHECK(end() == ncclSuccess);
  CHECK(end() == ncclInvalidUsage);
}

// "Management Of Multiple GPUs From One Thread"
TEST_CASE("one thread calls for several devices in a group, and nothing runs before its last end", "[2-gpus]") {
  const OnDevice one(0), other(1);
  const OnDevice* const on[] = {&one, &other};
  ncclComm_t comms[2] = {};
  REQUIRE(NC(ncclCommInitAll)(comms, 2, nullptr) == ncclSuccess);
  one.use();
  const Array<int> first({1});
  other.use();
  const Array<int> second({2});
  const Array<int>* const values[] = {&first, &second};
  for (int round = 0; round < 2; ++round) {
    REQUIRE(start() == ncclSuccess);
    REQUIRE(start() == ncclSuccess);
    for (int rank = 0; rank < 2; ++rank)
      CHECK(NC(ncclAllReduce)(values[rank]->at(), values[rank]->at(), 1, ncclInt32, ncclSum, comms[rank],
                              as_stream(on[rank]->stream())) == ncclSuccess);
    REQUIRE(end() == ncclSuccess);
    CHECK((one.idle() && other.idle()));
    REQUIRE(end() == ncclSuccess);
    for (int rank = 0; rank < 2; ++rank) {
      on[rank]->use();
      on[rank]->synchronize();
      CHECK(values[rank]->get() == std::vector{round == 0 ? 3 : 6});
    }
  }
  for (auto* comm : comms) CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}

// "Aggregated Operations"
TEST_CASE("a group may have several collectives, of several streams", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    CUstream other = nullptr;
    MUST_CU(CU(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING));
    const Array<int> one({rank.rank + 1}), two({rank.rank * 5}), three({rank.rank}), all(blank, 2);
    MUST_NC(start());
    NC(ncclAllReduce)(one.at(), one.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream());
    NC(ncclBroadcast)(two.at(), two.at(), 1, ncclInt32, 1, rank.comm, as_stream(other));
    NC(ncclAllGather)(three.at(), all.at(), 1, ncclInt32, rank.comm, rank.stream());
    MUST_NC(settled(rank.comm, end()));
    MUST_CU(CU(cuStreamSynchronize)(other));
    rank.finish();
    MUST(one.get() == std::vector{3});
    MUST(two.get() == std::vector{5});
    MUST(all.get() == std::vector({0, 1}));
    MUST_CU(CU(cuStreamDestroy)(other));
  });
}

// "Mixing Multiple Streams within the same ncclGroupStart/End() group": all streams wait for the whole group.
TEST_CASE("all streams of a group wait for each other, before and after it", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    CUstream other = nullptr;
    MUST_CU(CU(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING));
    const Array<int> one({1}), two({1});
    rank.finish(NC(ncclAllReduce)(one.at(), one.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream()));
    Gate gate;  // of both rounds: to free its memory may wait for the work of other ranks
    for (auto* const gated : {other, rank.on.stream()}) {
      gate.close(gated);
      const auto before = one.get();
      MUST_NC(start());
      NC(ncclAllReduce)(one.at(), one.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream());
      NC(ncclAllReduce)(two.at(), two.at(), 1, ncclInt32, ncclSum, rank.comm, as_stream(other));
      MUST_NC(settled(rank.comm, end()));
      MUST(one.get() == before);
      MUST(CU(cuStreamQuery)(rank.on.stream()) == CUDA_ERROR_NOT_READY);
      MUST(CU(cuStreamQuery)(other) == CUDA_ERROR_NOT_READY);
      gate.open();
      MUST_CU(CU(cuStreamSynchronize)(other));
      rank.finish();
    }
    MUST(one.get() == std::vector{8});
    MUST_CU(CU(cuStreamDestroy)(other));
  });
}

TEST_CASE("a call that fails fails its group") {
  const OnDevice on(0);
  ncclComm_t comm = nullptr;
  REQUIRE(NC(ncclCommInitRank)(&comm, 1, unique_id(), 0) == ncclSuccess);
  {
    const Array<int> values({4}), output({0});
    const auto stream = as_stream(on.stream());
    REQUIRE(start() == ncclSuccess);
    CHECK(NC(ncclAllReduce)(values.at(), output.at(), 1, ncclInt32, ncclSum, comm, stream) == ncclSuccess);
    CHECK(NC(ncclBroadcast)(values.at(), output.at(), 1, ncclInt32, 5, comm, stream) == ncclInvalidArgument);
    CHECK(end() == ncclInvalidArgument);
    on.synchronize();
    CHECK(NC(ncclAllReduce)(values.at(), output.at(), 1, ncclInt32, ncclSum, comm, stream) == ncclSuccess);
    on.synchronize();
    CHECK(output.get() == std::vector{4});
  }
  CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}

TEST_CASE("a send reaches the receive of its peer, in the order of the calls", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    for (int value = 1; value <= 3; ++value) {
      const Array<int> values({rank.rank == 0 ? value : 0});
      rank.finish(rank.rank == 0 ? NC(ncclSend)(values.at(), 1, ncclInt32, 1, rank.comm, rank.stream())
                                 : NC(ncclRecv)(values.at(), 1, ncclInt32, 0, rank.comm, rank.stream()));
      MUST(values.get() == std::vector{value});
    }
  });
}

// "Sendrecv", "Neighbor exchange": sends and receives in a group make progress together.
TEST_CASE("all ranks send and receive in a group, also to themselves and nothing", "[4-gpus]") {
  run_ranks(4, Mode::nonblocking, [](Rank& rank) {
    const auto ranks = static_cast<std::size_t>(rank.ranks);
    std::vector<int> given(ranks);
    for (std::size_t to = 0; to < ranks; ++to) given[to] = rank.rank * 10 + static_cast<int>(to);
    const Array<int> input(given), output(std::vector<int>(ranks, -1));
    MUST_NC(start());
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      const int number = static_cast<int>(peer);
      NC(ncclSend)(input.at(peer), 1, ncclInt32, number, rank.comm, rank.stream());
      NC(ncclRecv)(output.at(peer), 1, ncclInt32, number, rank.comm, rank.stream());
    }
    NC(ncclSend)(input.at(), 0, ncclInt32, (rank.rank + 1) % rank.ranks, rank.comm, rank.stream());
    NC(ncclRecv)(output.at(), 0, ncclInt32, (rank.rank + 3) % rank.ranks, rank.comm, rank.stream());
    rank.finish(end());
    std::vector<int> expected(ranks);
    for (std::size_t from = 0; from < ranks; ++from) expected[from] = static_cast<int>(from) * 10 + rank.rank;
    MUST(output.get() == expected);
  });
}

TEST_CASE("a group may have collectives, and sends and receives", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    const Array<int> sum({rank.rank + 1}), sent({rank.rank + 5}), received({0});
    MUST_NC(start());
    NC(ncclRecv)(received.at(), 1, ncclInt32, 1 - rank.rank, rank.comm, rank.stream());
    NC(ncclAllReduce)(sum.at(), sum.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream());
    NC(ncclSend)(sent.at(), 1, ncclInt32, 1 - rank.rank, rank.comm, rank.stream());
    rank.finish(end());
    MUST(sum.get() == std::vector{3});
    MUST(received.get() == std::vector{6 - rank.rank});
  });
}
