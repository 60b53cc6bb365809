// NCCL User Guide, "ncclBroadcast", "ncclAllGather", "ncclAlltoAll", "ncclGather", "ncclScatter", "In-place
// Operations", "CUDA Stream Semantics".
#include <atomic>

#include "gpu.hpp"
#include "nccl.hpp"

using namespace conformance;

namespace {

constexpr int ranks_of_test = 3;
constexpr std::size_t count = 17;

/// Values that tell who sent them, and to whom.
std::vector<int> block(int from, int to) {
  std::vector<int> values(count);
  for (std::size_t index = 0; index < count; ++index)
    values[index] = from * 10000 + to * 1000 + static_cast<int>(index);
  return values;
}

/// One block for each rank.
template <class F>
std::vector<int> blocks(const F& of) {
  std::vector<int> values;
  for (int rank = 0; rank < ranks_of_test; ++rank) {
    const auto part = of(rank);
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

std::size_t begin_of(int rank) { return static_cast<std::size_t>(rank) * count; }

std::vector<int> nothing() { return std::vector<int>(count * ranks_of_test, -1); }

}  // namespace

TEST_CASE("a broadcast gives all ranks what the root has", "[3-gpus]") {
  run_ranks(ranks_of_test, Mode::nonblocking, [](Rank& rank) {
    for (int root = 0; root < rank.ranks; ++root) {
      const Array<int> input(block(rank.rank, root)), output(blank, count);
      // Only the root's sendbuff is used.
      const void* from = rank.rank == root ? input.at() : nullptr;
      rank.finish(NC(ncclBroadcast)(from, output.at(), count, ncclInt32, root, rank.comm, rank.stream()));
      MUST(output.get() == block(root, root));
      rank.finish(NC(ncclBroadcast)(input.at(), input.at(), count, ncclInt32, root, rank.comm, rank.stream()));
      MUST(input.get() == block(root, root));
    }
  });
}

TEST_CASE("an allgather gives all ranks all blocks, in the order of ranks", "[3-gpus]") {
  run_ranks(ranks_of_test, Mode::nonblocking, [](Rank& rank) {
    const auto expected = blocks([](int from) { return block(from, 0); });
    const Array<int> input(block(rank.rank, 0)), output(nothing());
    rank.finish(NC(ncclAllGather)(input.at(), output.at(), count, ncclInt32, rank.comm, rank.stream()));
    MUST(output.get() == expected);
    const Array<int> both(blocks([&](int at) { return block(rank.rank, at == rank.rank ? 0 : 9); }));
    rank.finish(NC(ncclAllGather)(both.at(begin_of(rank.rank)), both.at(), count, ncclInt32, rank.comm, rank.stream()));
    MUST(both.get() == expected);
  });
}

TEST_CASE("an alltoall gives each rank its block of each", "[3-gpus][nccl-2.28]") {
  run_ranks(ranks_of_test, Mode::nonblocking, [](Rank& rank) {
    const Array<int> input(blocks([&](int to) { return block(rank.rank, to); })), output(nothing());
    rank.finish(NC(ncclAlltoAll)(input.at(), output.at(), count, ncclInt32, rank.comm, rank.stream()));
    MUST(output.get() == blocks([&](int from) { return block(from, rank.rank); }));
  });
}

TEST_CASE("a gather gives the root all blocks, also in place", "[3-gpus][nccl-2.28]") {
  run_ranks(ranks_of_test, Mode::nonblocking, [](Rank& rank) {
    for (int root = 0; root < rank.ranks; ++root) {
      const bool is_root = rank.rank == root;
      const auto expected = blocks([&](int from) { return block(from, root); });
      const Array<int> input(block(rank.rank, root)), output(nothing());
      // Only the root's recvbuff is used.
      void* const to = is_root ? output.at() : nullptr;
      rank.finish(NC(ncclGather)(input.at(), to, count, ncclInt32, root, rank.comm, rank.stream()));
      MUST(output.get() == (is_root ? expected : nothing()));
      const Array<int> both(blocks([&](int) { return block(rank.rank, root); }));
      const void* from = both.at(begin_of(root));
      rank.finish(NC(ncclGather)(from, both.at(), count, ncclInt32, root, rank.comm, rank.stream()));
      if (is_root) MUST(both.get() == expected);
    }
  });
}

TEST_CASE("a scatter gives each rank its block of the root, also in place", "[3-gpus][nccl-2.28]") {
  run_ranks(ranks_of_test, Mode::nonblocking, [](Rank& rank) {
    for (int root = 0; root < rank.ranks; ++root) {
      const bool is_root = rank.rank == root;
      const Array<int> input(blocks([&](int to) { return block(rank.rank, to); })), output(blank, count);
      const void* from = is_root ? input.at() : nullptr;
      rank.finish(NC(ncclScatter)(from, output.at(), count, ncclInt32, root, rank.comm, rank.stream()));
      MUST(output.get() == block(root, rank.rank));
      void* const to = is_root ? input.at(begin_of(root)) : output.at();
      rank.finish(NC(ncclScatter)(input.at(), to, count, ncclInt32, root, rank.comm, rank.stream()));
      if (is_root) MUST(input.get() == blocks([&](int at) { return block(root, at); }));
      else MUST(output.get() == block(root, rank.rank));
    }
  });
}

TEST_CASE("roots and peers that aren't ranks are refused") {
  const OnDevice on(0);
  ncclComm_t comm = nullptr;
  REQUIRE(NC(ncclCommInitRank)(&comm, 1, unique_id(), 0) == ncclSuccess);
  const auto stream = as_stream(on.stream());
  {
    const Array<int> values(blank, 4);
    for (const int rank : {-1, 1}) {
      CHECK(NC(ncclBroadcast)(values.at(), values.at(), 4, ncclInt32, rank, comm, stream) == ncclInvalidArgument);
      CHECK(NC(ncclReduce)(values.at(), values.at(), 4, ncclInt32, ncclSum, rank, comm, stream) == ncclInvalidArgument);
      CHECK(NC(ncclSend)(values.at(), 4, ncclInt32, rank, comm, stream) == ncclInvalidArgument);
      CHECK(NC(ncclRecv)(values.at(), 4, ncclInt32, rank, comm, stream) == ncclInvalidArgument);
    }
    CHECK(NC(ncclAllReduce)(values.at(), values.at(), 4, ncclInt32, ncclSum, nullptr, stream) == ncclInvalidArgument);
    on.synchronize();
  }
  CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}

TEST_CASE("collectives without elements do nothing", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    const Array<int> values({7});
    rank.finish(NC(ncclAllReduce)(values.at(), values.at(), 0, ncclInt32, ncclSum, rank.comm, rank.stream()));
    rank.finish(NC(ncclBroadcast)(values.at(), values.at(), 0, ncclInt32, 0, rank.comm, rank.stream()));
    MUST(values.get() == std::vector{7});
  });
}

// "CUDA Stream Semantics": a call returns when the op is enqueued; it runs in the order of its stream.
TEST_CASE("an op waits for what is before it in its stream, and what comes later waits for it", "[2-gpus]") {
  std::atomic<bool> opened = false;
  run_ranks(2, Mode::nonblocking, [&](Rank& rank) {
    const Array<int> values({rank.rank + 1}), copy({0});
    // The first op connects, which may wait on the host.
    rank.finish(NC(ncclAllReduce)(values.at(), values.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream()));
    Gate gate;
    if (rank.rank == 0) gate.close(rank.on.stream());
    MUST_NC(settled(rank.comm,
                    NC(ncclAllReduce)(values.at(), values.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream())));
    const auto source = reinterpret_cast<CUdeviceptr>(values.at()), target = reinterpret_cast<CUdeviceptr>(copy.at());
    MUST_CU(CU(cuMemcpyDtoDAsync)(target, source, sizeof(int), rank.on.stream()));
    MUST(rank.rank != 0 || !rank.on.idle());
    if (rank.rank == 0) {
      opened = true;
      gate.open();
    }
    rank.on.wait_idle();
    MUST(opened);
    MUST(copy.get() == std::vector{6});
  });
}

TEST_CASE("ops of one communicator run in the order of their calls, also in two streams", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    CUstream other = nullptr;
    MUST_CU(CU(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING));
    const Array<int> one({1}), two({10});
    for (int round = 0; round < 5; ++round) {
      MUST_NC(
          settled(rank.comm, NC(ncclAllReduce)(one.at(), one.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream())));
      MUST_NC(settled(rank.comm,
                      NC(ncclAllReduce)(two.at(), two.at(), 1, ncclInt32, ncclSum, rank.comm, as_stream(other))));
    }
    rank.finish();
    MUST_CU(CU(cuStreamSynchronize)(other));
    MUST(one.get() == std::vector{32});
    MUST(two.get() == std::vector{320});
    MUST_CU(CU(cuStreamDestroy)(other));
  });
}
