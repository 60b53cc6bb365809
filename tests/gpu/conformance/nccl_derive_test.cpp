// NCCL User Guide, "Creating more communicators", "Shrinking a communicator", "Growing a communicator".
#include "nccl.hpp"

using namespace conformance;

namespace {

int number_of(ncclResult_t (*call)(ncclComm_t, int*), ncclComm_t comm) {
  int value = -1;
  MUST_NC(call(comm, &value));
  return value;
}
int rank_in(ncclComm_t comm) { return number_of(NC(ncclCommUserRank), comm); }
int ranks_of(ncclComm_t comm) { return number_of(NC(ncclCommCount), comm); }

/// The sum of a number of each rank of the communicator.
int sum(const Rank& rank, ncclComm_t comm, int value) {
  const Array<int> values({value});
  MUST_NC(settled(comm, NC(ncclAllReduce)(values.at(), values.at(), 1, ncclInt32, ncclSum, comm, rank.stream())));
  rank.on.synchronize();
  return values.get().front();
}

ncclComm_t split(const Rank& rank, int color, int key) {
  ncclComm_t made = nullptr;
  MUST_NC(settled(rank.comm, NC(ncclCommSplit)(rank.comm, color, key, &made, nullptr)));
  return made;
}

ncclComm_t shrink(const Rank& rank, std::vector<int> excluded, int flags) {
  ncclComm_t made = nullptr;
  const auto result =
      NC(ncclCommShrink)(rank.comm, excluded.data(), static_cast<int>(excluded.size()), &made, nullptr, flags);
  MUST_NC(settled(rank.comm, result));
  return made;
}

}  // namespace

TEST_CASE("ranks with one color get a communicator, in the order of their keys", "[4-gpus]") {
  for (const auto mode : {Mode::blocking, Mode::nonblocking})
    run_ranks(4, mode, [](Rank& rank) {
      auto* const made = split(rank, rank.rank % 2, -rank.rank);
      MUST(ranks_of(made) == 2);
      MUST(rank_in(made) == (rank.rank < 2 ? 1 : 0));
      MUST(sum(rank, made, 1 << rank.rank) == (rank.rank % 2 == 0 ? 5 : 10));
      MUST(sum(rank, rank.comm, 1) == 4);
      finalize_and_destroy(made);
    });
}

TEST_CASE("where keys are equal, the ranks before decide", "[3-gpus]") {
  run_ranks(3, Mode::nonblocking, [](Rank& rank) {
    auto* const made = split(rank, 7, 0);
    MUST(rank_in(made) == rank.rank);
    finalize_and_destroy(made);
  });
}

TEST_CASE("a rank without a color gets none, but has to call", "[3-gpus]") {
  run_ranks(3, Mode::nonblocking, [](Rank& rank) {
    auto* const made = split(rank, rank.rank == 1 ? NCCL_SPLIT_NOCOLOR : 0, rank.rank);
    MUST((made == nullptr) == (rank.rank == 1));
    if (made == nullptr) return;
    MUST(ranks_of(made) == 2);
    MUST(sum(rank, made, 1) == 2);
    finalize_and_destroy(made);
  });
}

// "Newly created communicators will inherit the parent communicator configuration (e.g. non-blocking)."
TEST_CASE("a communicator inherits the configuration, or gets one", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    auto* const inherited = split(rank, 0, rank.rank);
    const Array<int> values({1});
    const auto call = [&](ncclComm_t comm) {
      return NC(ncclAllReduce)(values.at(), values.at(), 1, ncclInt32, ncclSum, comm, rank.stream());
    };
    const auto result = call(inherited);
    MUST(result == ncclInProgress || result == ncclSuccess);
    MUST_NC(settled(inherited));
    ncclComm_t made = nullptr;
    MUST_NC(settled(rank.comm, NC(ncclCommSplit)(rank.comm, 0, rank.rank, &made, make_config(true))));
    MUST_NC(call(made));
    rank.finish();
    MUST_NC(NC(ncclCommDestroy)(made));
    finalize_and_destroy(inherited);
  });
}

TEST_CASE("a split in which a rank doesn't come is in progress until it is aborted", "[2-gpus]") {
  Milestone seen;
  run_ranks(2, Mode::nonblocking, [&](Rank& rank) {
    ncclComm_t made = nullptr;
    if (rank.rank == 0) {
      MUST(NC(ncclCommSplit)(rank.comm, 0, 0, &made, nullptr) == ncclInProgress);
      ncclResult_t state = ncclSuccess;
      MUST_NC(NC(ncclCommGetAsyncError)(rank.comm, &state));
      MUST(state == ncclInProgress);
      seen.reach();
    }
    seen.wait(1);
    MUST_NC(NC(ncclCommAbort)(rank.comm));
    rank.comm = nullptr;
    MUST(made == nullptr);
  });
}

TEST_CASE("the ranks that stay shrink a communicator", "[4-gpus][nccl-2.27]") {
  for (const auto mode : {Mode::blocking, Mode::nonblocking})
    run_ranks(4, mode, [](Rank& rank) {
      if (rank.rank == 1) return;
      auto* const made = shrink(rank, {1}, NCCL_SHRINK_DEFAULT);
      MUST(ranks_of(made) == 3);
      MUST(rank_in(made) == (rank.rank == 0 ? 0 : rank.rank - 1));
      MUST(sum(rank, made, 1 << rank.rank) == 13);
      finalize_and_destroy(made);
    });
}

TEST_CASE("a shrink excludes ranks that there are, and not the caller", "[2-gpus][nccl-2.27]") {
  run_ranks(2, Mode::blocking, [](Rank& rank) {
    ncclComm_t made = nullptr;
    const auto code = [&](int* excluded, int number) {
      return NC(ncclCommShrink)(rank.comm, excluded, number, &made, nullptr, NCCL_SHRINK_DEFAULT);
    };
    int self = rank.rank;
    MUST(code(&self, 1) == ncclInvalidArgument);
    MUST(code(&self, 0) == ncclInvalidArgument);
    MUST(code(nullptr, 1) == ncclInvalidArgument);
    MUST(sum(rank, rank.comm, 1) == 2);
  });
}

TEST_CASE("a shrink ends ops that hang, if it is asked to", "[3-gpus][nccl-2.27]") {
  Milestone hanging;
  run_ranks(3, Mode::nonblocking, [&](Rank& rank) {
    MUST(sum(rank, rank.comm, 1) == 3);
    if (rank.rank < 2) {
      const Array<int> values({1});
      const auto result = NC(ncclAllReduce)(values.at(), values.at(), 1, ncclInt32, ncclSum, rank.comm, rank.stream());
      MUST_NC(settled(rank.comm, result));
      MUST(!rank.on.idle());
      hanging.reach();
      auto* const made = shrink(rank, {2}, NCCL_SHRINK_ABORT);
      rank.on.synchronize();
      MUST(sum(rank, made, 1) == 2);
      finalize_and_destroy(made);
    }
    hanging.wait(2);
    MUST_NC(NC(ncclCommAbort)(rank.comm));
    rank.comm = nullptr;
  });
}

TEST_CASE("ranks that are new grow a communicator, and those that are there keep their numbers",
          "[4-gpus][nccl-2.29]") {
  for (const auto mode : {Mode::blocking, Mode::nonblocking}) {
    REQUIRE(CU(cuInit)(0) == CUDA_SUCCESS);
    const auto id = unique_id();
    Milestone made_id;
    ncclUniqueId grow_id{};
    run_threads(4, [&](int number) {
      OnDevice on(number);
      ncclComm_t parent = nullptr, grown = nullptr;
      const bool is_new = number >= 2;
      const bool blocking = mode == Mode::blocking;
      if (!is_new) MUST_NC(settled(parent, NC(ncclCommInitRankConfig)(&parent, 2, id, number, make_config(blocking))));
      if (number == 1) {
        MUST_NC(NC(ncclCommGetUniqueId)(parent, &grow_id));
        made_id.reach();
      }
      if (is_new) made_id.wait(1);
      const auto* const given = is_new || number == 1 ? &grow_id : nullptr;
      auto* const config = is_new ? make_config(blocking) : nullptr;
      const auto result = NC(ncclCommGrow)(parent, 4, given, is_new ? number : -1, &grown, config);
      MUST_NC(settled(grown, result));
      MUST(rank_in(grown) == number);
      MUST(ranks_of(grown) == 4);
      if (parent != nullptr) finalize_and_destroy(parent);
      MUST(sum({on, number, 4, grown}, grown, 1 << number) == 15);
      finalize_and_destroy(grown);
    });
  }
}

TEST_CASE("a grow needs more ranks than there are, and the right numbers", "[nccl-2.29]") {
  const OnDevice on(0);
  ncclComm_t parent = nullptr, grown = nullptr;
  const auto id = unique_id();
  REQUIRE(NC(ncclCommInitRank)(&parent, 1, id, 0) == ncclSuccess);
  CHECK(NC(ncclCommGrow)(parent, 1, nullptr, -1, &grown, nullptr) == ncclInvalidArgument);
  CHECK(NC(ncclCommGrow)(parent, 2, nullptr, 0, &grown, nullptr) == ncclInvalidArgument);
  CHECK(NC(ncclCommGrow)(nullptr, 2, nullptr, 1, &grown, nullptr) == ncclInvalidArgument);
  CHECK(NC(ncclCommGrow)(nullptr, 2, &id, 2, &grown, nullptr) == ncclInvalidArgument);
  CHECK(NC(ncclCommGrow)(nullptr, 2, &id, -1, &grown, nullptr) == ncclInvalidArgument);
  CHECK(NC(ncclCommGrow)(parent, 2, nullptr, -1, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(grown == nullptr);
  CHECK(NC(ncclCommDestroy)(parent) == ncclSuccess);
}
