// What is remembered of failed ops stays within its limits, and somebody pays for it.
#include <catch2/catch.hpp>

#include <list>

#include "collective/failed_codes.hpp"
#include "collective/failed_ops.hpp"
#include "ops.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::Code;
using muster::Error;

namespace {

/// A group's failures, each of an op of its own.
struct Group {
  FailedOps failed;
  std::list<PendingOp> ops;

  PendingOp& fail(const Error& error, Charge payer = {}) {
    PendingOp& op = ops.emplace_back();
    op.id = ops.size();
    op.sequence = ops.size() - 1;
    auto failure = failed.make_failure(op, error, payer.all_heap());
    failed.remember(op, std::move(failure), payer);
    return op;
  }
};

constexpr std::size_t plenty = std::size_t{1} << 20;

}  // namespace

TEST_CASE("the failure that is forgotten is the oldest, and its code is kept") {
  Group group{FailedOps(2, 2, plenty), {}};
  PendingOp& first = group.fail({Code::timeout, "first"});
  PendingOp& second = group.fail({Code::invalid, "second"});
  CHECK_FALSE(group.failed.are_too_many());
  CHECK(first.failure->error().message() == "first");
  group.fail({Code::denied, "third"});
  REQUIRE(group.failed.are_too_many());
  CHECK(&group.failed.forget_oldest() == &first);
  CHECK_FALSE(first.failure);
  CHECK(first.code() == Code::timeout);
  CHECK(second.code() == Code::invalid);
  CHECK_FALSE(group.failed.are_too_many());
}

TEST_CASE("an op that is over makes room for others") {
  Group group{FailedOps(2, 1, plenty), {}};
  PendingOp& first = group.fail({Code::timeout, "first"});
  group.failed.forget(first);
  group.failed.forget(first);
  PendingOp& second = group.fail({Code::timeout, "second"});
  CHECK_FALSE(group.failed.are_too_many());
  group.fail({Code::timeout, "third"});
  CHECK(&group.failed.forget_oldest() == &second);
}

TEST_CASE("failures are bounded in bytes, too") {
  Group group{FailedOps(2, 1000, 10'000), {}};
  std::size_t count = 0;
  for (; !group.failed.are_too_many(); ++count) group.fail({Code::timeout, std::string(1000, 'm')});
  CHECK(count >= 5);
  CHECK(count <= 10);
  group.failed.forget_oldest();
  CHECK_FALSE(group.failed.are_too_many());
}

TEST_CASE("a failure is remembered within what was paid for it, and the rest is given back") {
  const auto before = heap_charged();
  {
    Group group{FailedOps(2, 10, plenty), {}};
    const Error error(Code::invalid, std::string(2000, 'm'));
    PendingOp& cheap = group.fail(error, heap_charge(1500));
    CHECK(cheap.failure->error().message().size() < 1500);
    CHECK(cheap.remembered_bytes <= 1500 + 3);  // with the dots
    PendingOp& dear = group.fail(error, heap_charge(100'000));
    CHECK(dear.failure->error().message().size() == 2000);
    CHECK(dear.charge.all_heap() == dear.remembered_bytes);
    CHECK(heap_charged() - before == cheap.charge.all_heap() + dear.remembered_bytes);
    group.failed.forget_oldest();
    CHECK(cheap.charge.all_heap() == sizeof(PendingOp));
  }
  CHECK(heap_charged() == before);
}

TEST_CASE("a dropped op's code is known, and codes that are alike take one row") {
  const auto before = heap_charged();
  FailedCodes codes;
  std::list<PendingOp> ops;
  const std::vector<Code> failed{Code::timeout, Code::timeout, Code::invalid, Code::invalid, Code::timeout};
  for (std::size_t i = 0; i < failed.size(); ++i) {
    PendingOp& op = ops.emplace_back();
    op.sequence = i;
    op.forgotten = failed[i];
    op.charge = heap_charge(1000);
    codes.keep(op);
  }
  for (std::size_t i = 0; i < failed.size(); ++i) CHECK(codes.code_of(i) == failed[i]);
  CHECK(codes.rows().size() == 3);
  ops.clear();
  CHECK(heap_charged() - before == 3 * codes.rows().begin()->second.charge.all_heap());
  CHECK(heap_charged() - before < 1000);

  codes.forget_some(1, 5);  // a rank is there
  CHECK(codes.rows().size() == 3);
  codes.forget_some(2, 5);
  CHECK(codes.rows().size() == 2);
  CHECK(codes.code_of(2) == Code::invalid);
  codes.forget_some(4, 5);
  CHECK(codes.rows().size() == 1);
  CHECK(codes.code_of(4) == Code::timeout);
  codes.forget_some(5, 5);
  CHECK(codes.empty());
  CHECK(heap_charged() == before);
}

TEST_CASE("codes that nobody can ask for go a few at a time") {
  FailedCodes codes;
  for (std::uint64_t i = 0; i < 5; ++i) {
    PendingOp op;
    op.sequence = i;
    op.forgotten = i % 2 == 0 ? Code::timeout : Code::invalid;
    codes.keep(op);
  }
  for (const std::size_t left : {3U, 1U, 0U}) {
    codes.forget_some(9, 9);
    CHECK(codes.rows().size() == left);
  }
}
