// NCCL User Guide, "Creating a Communicator", "ncclConfig_t", "Finalizing a communicator", "Destroying a communicator".
#include <algorithm>

#include "gpu.hpp"
#include "nccl.hpp"

using namespace conformance;

namespace {

void check_attributes(const Rank& rank) {
  int value = -1;
  MUST_NC(NC(ncclCommCount)(rank.comm, &value));
  MUST(value == rank.ranks);
  MUST_NC(NC(ncclCommUserRank)(rank.comm, &value));
  MUST(value == rank.rank);
  MUST_NC(NC(ncclCommCuDevice)(rank.comm, &value));
  MUST(value == rank.on.device());
}

void check_sum(const Rank& rank) {
  const Array<float> values(std::vector<float>(100, static_cast<float>(rank.rank + 1)));
  rank.finish(NC(ncclAllReduce)(values.at(), values.at(), 100, ncclFloat32, ncclSum, rank.comm, rank.stream()));
  const auto sum = static_cast<float>(rank.ranks * (rank.ranks + 1) / 2);
  MUST(values.get() == std::vector<float>(100, sum));
}

}  // namespace

TEST_CASE("ranks meet by a unique id: as many as there are GPUs, up to four") {
  for (const auto mode : {Mode::blocking, Mode::nonblocking})
    for (int ranks = 1; ranks <= std::min(devices(), 4); ++ranks)
      run_ranks(ranks, mode, [](Rank& rank) {
        check_attributes(rank);
        check_sum(rank);
      });
}

TEST_CASE("each unique id is another one") {
  const OnDevice on(0);
  const auto one = unique_id(), other = unique_id();
  CHECK(std::memcmp(&one, &other, sizeof(one)) != 0);
  CHECK(NC(ncclGetUniqueId)(nullptr) == ncclInvalidArgument);
  for (const auto& id : {one, other}) {
    ncclComm_t comm = nullptr;
    REQUIRE(NC(ncclCommInitRank)(&comm, 1, id, 0) == ncclSuccess);
    CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
  }
}

TEST_CASE("arguments that mean nothing make no communicator") {
  const OnDevice on(0);
  const auto id = unique_id();
  ncclComm_t comm = nullptr;
  CHECK(NC(ncclCommInitRank)(nullptr, 1, id, 0) == ncclInvalidArgument);
  CHECK(NC(ncclCommInitRank)(&comm, 0, id, 0) == ncclInvalidArgument);
  CHECK(NC(ncclCommInitRank)(&comm, 2, id, 2) == ncclInvalidArgument);
  CHECK(NC(ncclCommInitRank)(&comm, 2, id, -1) == ncclInvalidArgument);
  CHECK(comm == nullptr);
  REQUIRE(NC(ncclCommInitRank)(&comm, 1, id, 0) == ncclSuccess);
  CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}

TEST_CASE("a configuration must be initialized, and have values that mean something") {
  const OnDevice on(0);
  const auto id = unique_id();
  const auto init = [&](const std::function<void(ncclConfig_t&)>& change) {
    ncclComm_t comm = nullptr;
    auto* const config = make_config(true);
    change(*config);
    return NC(ncclCommInitRankConfig)(&comm, 1, id, 0, config);
  };
  CHECK(init([](auto& config) { config.magic = 1; }) == ncclInvalidArgument);
  CHECK(init([](auto& config) { config.blocking = 7; }) == ncclInvalidArgument);
  ncclComm_t comm = nullptr;
  REQUIRE(NC(ncclCommInitRankConfig)(&comm, 1, id, 0, nullptr) == ncclSuccess);
  CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}

TEST_CASE("without a configuration a communicator is blocking", "[2-gpus]") {
  const OnDevice first(0);
  const auto id = unique_id();
  run_threads(2, [&](int number) {
    OnDevice on(number);
    ncclComm_t comm = nullptr;
    MUST_NC(NC(ncclCommInitRankConfig)(&comm, 2, id, number, nullptr));
    check_attributes({on, number, 2, comm});
    MUST_NC(NC(ncclCommDestroy)(comm));
  });
}

TEST_CASE("two ranks of a communicator can't be on one GPU") {
  const OnDevice first(0);
  const auto id = unique_id();
  run_threads(2, [&](int number) {
    const OnDevice on(0);
    ncclComm_t comm = nullptr;
    MUST(NC(ncclCommInitRank)(&comm, 2, id, number) == ncclInvalidUsage);
    MUST(comm == nullptr);
  });
}

TEST_CASE("one thread makes communicators for several devices in a group, or by ncclCommInitAll", "[2-gpus]") {
  const OnDevice one(0), other(1);
  ncclComm_t comms[2] = {};
  SECTION("in a group") {
    const auto id = unique_id();
    REQUIRE(NC(ncclGroupStart)() == ncclSuccess);
    one.use();
    CHECK(NC(ncclCommInitRank)(&comms[0], 2, id, 0) == ncclSuccess);
    other.use();
    CHECK(NC(ncclCommInitRank)(&comms[1], 2, id, 1) == ncclSuccess);
    REQUIRE(NC(ncclGroupEnd)() == ncclSuccess);
  }
  SECTION("of the first devices") { REQUIRE(NC(ncclCommInitAll)(comms, 2, nullptr) == ncclSuccess); }
  SECTION("of a list of devices") {
    const int devices[] = {0, 1};
    REQUIRE(NC(ncclCommInitAll)(comms, 2, devices) == ncclSuccess);
  }
  for (int rank = 0; rank < 2; ++rank) {
    int value = -1;
    CHECK(NC(ncclCommUserRank)(comms[rank], &value) == ncclSuccess);
    CHECK(value == rank);
    CHECK(NC(ncclCommCuDevice)(comms[rank], &value) == ncclSuccess);
    CHECK(value == rank);
  }
  for (auto* comm : comms) CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}

TEST_CASE("several unique ids make one communicator", "[3-gpus][nccl-2.23]") {
  const OnDevice first(0);
  ncclUniqueId ids[] = {unique_id(), unique_id()};
  run_threads(3, [&](int number) {
    OnDevice on(number);
    ncclComm_t comm = nullptr;
    MUST_NC(NC(ncclCommInitRankScalable)(&comm, 3, number, 2, ids, make_config(true)));
    check_sum({on, number, 3, comm});
    MUST_NC(NC(ncclCommDestroy)(comm));
  });
}

// "Creating a communication with options": while the state is ncclInProgress, no other call than
// ncclCommGetAsyncError and ncclCommAbort is allowed.
TEST_CASE("a communicator whose other rank never comes is in progress until it is aborted", "[2-gpus]") {
  const OnDevice on(0);
  ncclComm_t comm = nullptr;
  const auto id = unique_id();
  REQUIRE(NC(ncclCommInitRankConfig)(&comm, 2, id, 0, make_config(false)) == ncclInProgress);
  REQUIRE(comm != nullptr);
  const Array<float> values(blank, 1);
  int count = 0;
  ncclResult_t state = ncclSuccess;
  CHECK(NC(ncclCommCount)(comm, &count) == ncclInvalidArgument);
  CHECK(NC(ncclAllReduce)(values.at(), values.at(), 1, ncclFloat32, ncclSum, comm, as_stream(on.stream())) ==
        ncclInvalidArgument);
  CHECK(NC(ncclCommGetAsyncError)(comm, &state) == ncclSuccess);
  CHECK(state == ncclInProgress);
  CHECK(NC(ncclCommAbort)(comm) == ncclSuccess);
}

TEST_CASE("a communicator is finalized once", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    MUST_NC(settled(rank.comm, NC(ncclCommFinalize)(rank.comm)));
    MUST(NC(ncclCommFinalize)(rank.comm) == ncclInvalidArgument);
    MUST_NC(NC(ncclCommDestroy)(rank.comm));
    rank.comm = nullptr;
  });
}

TEST_CASE("what was called before is done when a communicator is finalized", "[2-gpus]") {
  run_ranks(2, Mode::nonblocking, [](Rank& rank) {
    check_sum(rank);
    const Array<float> values(std::vector<float>(100, 1));
    Gate gate;
    gate.close(rank.on.stream());
    MUST_NC(settled(rank.comm,
                    NC(ncclAllReduce)(values.at(), values.at(), 100, ncclFloat32, ncclSum, rank.comm, rank.stream())));
    MUST(NC(ncclCommFinalize)(rank.comm) == ncclInProgress);
    for (int look = 0; look < 100; ++look) {
      ncclResult_t state = ncclSuccess;
      MUST_NC(NC(ncclCommGetAsyncError)(rank.comm, &state));
      MUST(state == ncclInProgress);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    gate.open();
    MUST_NC(settled(rank.comm));
    MUST(values.get() == std::vector<float>(100, 2));
    MUST_NC(NC(ncclCommDestroy)(rank.comm));
    rank.comm = nullptr;
  });
}
