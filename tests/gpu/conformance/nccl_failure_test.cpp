// NCCL User Guide, "Error handling and communicator abort", "Fault Tolerance", "ncclCommAbort", "ncclCommRevoke".
#include "nccl.hpp"

using namespace conformance;

namespace {

ncclResult_t call(const Rank& rank, const Array<int>& values) {
  return NC(ncclAllReduce)(values.at(), values.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream());
}

/// All connect, so that an op of only some of them hangs in its stream, and not in its call.
void connect(const Rank& rank) {
  const Array<int> values({1});
  rank.finish(call(rank, values));
}

}  // namespace

TEST_CASE("an op that a rank doesn't call hangs, and an abort from another thread ends it", "[3-gpus]") {
  Milestone hanging;
  run_ranks(3, Mode::nonblocking, [&](Rank& rank) {
    connect(rank);
    const Array<int> values({1});
    if (rank.rank != 2) {
      MUST_NC(settled(rank.comm, call(rank, values)));
      MUST(!rank.on.idle());
      hanging.reach();
    }
    hanging.wait(2);
    ncclResult_t aborted = ncclInternalError;
    std::thread([&] { aborted = NC(ncclCommAbort)(rank.comm); }).join();
    rank.comm = nullptr;
    MUST_NC(aborted);
    // The stream and the context are whole.
    rank.on.synchronize();
    const Array<int> later({5});
    MUST(later.get() == std::vector{5});
  });
}

TEST_CASE("an abort ends sends and receives that wait for their peer", "[2-gpus]") {
  for (const bool sends : {true, false}) {
    Milestone called;
    run_ranks(2, Mode::nonblocking, [&](Rank& rank) {
      const Array<int> values({1});
      if (rank.rank == 0) {
        const auto result = sends ? NC(ncclSend)(values.at(), 1, ncclInt32, 1, rank.comm, rank.stream())
                                  : NC(ncclRecv)(values.at(), 1, ncclInt32, 1, rank.comm, rank.stream());
        MUST(result == ncclSuccess || result == ncclInProgress);
        called.reach();
      }
      called.wait(1);
      MUST_NC(NC(ncclCommAbort)(rank.comm));
      rank.comm = nullptr;
      rank.on.synchronize();
    });
  }
}

TEST_CASE("an abort of one communicator leaves others alone", "[2-gpus]") {
  Milestone made;
  run_ranks(2, Mode::nonblocking, [&](Rank& rank) {
    ncclComm_t other = nullptr;
    MUST_NC(settled(rank.comm, NC(ncclCommSplit)(rank.comm, 0, rank.rank, &other, nullptr)));
    made.reach();
    made.wait(2);
    MUST_NC(NC(ncclCommAbort)(rank.comm));
    rank.comm = other;
    const Array<int> values({1});
    rank.finish(call(rank, values));
    MUST(values.get() == std::vector{2});
  });
}

TEST_CASE("a blocking call that waits for a rank ends when its communicator is aborted", "[2-gpus]") {
  run_ranks(2, Mode::blocking, [](Rank& rank) {
    if (rank.rank == 0) {
      const Array<int> values({1});
      std::thread waiting([&] {
        rank.on.use();
        // Whether the call or the stream waits is NCCL's affair.
        static_cast<void>(call(rank, values));
      });
      MUST_NC(NC(ncclCommAbort)(rank.comm));
      waiting.join();
    } else {
      MUST_NC(NC(ncclCommAbort)(rank.comm));
    }
    rank.comm = nullptr;
    rank.on.synchronize();
  });
}

TEST_CASE("a revoke ends what runs, and the communicator can't be used but for others", "[3-gpus][nccl-2.28.7]") {
  Milestone called;
  run_ranks(3, Mode::nonblocking, [&](Rank& rank) {
    connect(rank);
    const Array<int> values({1});
    if (rank.rank != 2) MUST_NC(settled(rank.comm, call(rank, values)));
    called.reach();
    called.wait(3);
    MUST(NC(ncclCommRevoke)(rank.comm, 1) == ncclInvalidArgument);
    MUST_NC(settled(rank.comm, NC(ncclCommRevoke)(rank.comm, NCCL_REVOKE_DEFAULT)));
    rank.on.synchronize();
    MUST(call(rank, values) == ncclInvalidUsage);
    MUST(NC(ncclCommRevoke)(rank.comm, NCCL_REVOKE_DEFAULT) == ncclInvalidArgument);
    MUST(NC(ncclCommFinalize)(rank.comm) != ncclSuccess);
    ncclComm_t made = nullptr;
    MUST_NC(settled(rank.comm, NC(ncclCommSplit)(rank.comm, 0, rank.rank, &made, nullptr)));
    MUST_NC(NC(ncclCommDestroy)(rank.comm));
    rank.comm = made;
    connect(rank);
  });
}

TEST_CASE("a communicator that was finalized isn't revoked", "[nccl-2.28.7]") {
  run_ranks(1, Mode::nonblocking, [](Rank& rank) {
    MUST_NC(settled(rank.comm, NC(ncclCommFinalize)(rank.comm)));
    MUST(NC(ncclCommRevoke)(rank.comm, NCCL_REVOKE_DEFAULT) == ncclInvalidArgument);
    MUST_NC(NC(ncclCommDestroy)(rank.comm));
    rank.comm = nullptr;
  });
}
