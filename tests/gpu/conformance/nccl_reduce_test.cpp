// NCCL User Guide, "ncclAllReduce", "ncclReduce", "ncclReduceScatter", "ncclRedOp_t", "User Defined Reduction
// Operators", "In-place Operations".
#include <algorithm>
#include <cmath>
#include <mutex>

#include "nccl.hpp"
#include "nccl_values.hpp"

using namespace conformance;

namespace {

constexpr int ranks_of_test = 3;
constexpr ncclRedOp_t all_ops[] = {ncclSum, ncclProd, ncclMax, ncclMin, ncclAvg};

/// What a rank gives: few values, which every format has, and some that differ from rank to rank.
std::vector<double> input_of(const Format& format, int rank, std::size_t count) {
  std::vector<double> values(count);
  for (std::size_t index = 0; index < count; ++index) {
    const auto step = static_cast<int>((index * 7 + static_cast<std::size_t>(rank) * 5 + index / 11) % 8);
    const double whole = format.is_signed ? step - 3 : step % 6;  // products of three fit into every format
    values[index] = format.integral ? whole : whole / 2;
  }
  return values;
}

double fold(ncclRedOp_t op, double a, double b) {
  switch (op) {
    case ncclProd: return a * b;
    case ncclMax: return std::max(a, b);
    case ncclMin: return std::min(a, b);
    default: return a + b;
  }
}

struct Expected {
  double value = 0;
  double allowed = 0;  // how far a result may be off, as the order of ranks is free
};

Expected expected_at(const Format& format, ncclRedOp_t op, int ranks, std::size_t index, std::size_t count) {
  double value = 0, magnitude = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const double input = input_of(format, rank, count)[index];
    value = rank == 0 ? input : fold(op, value, input);
    magnitude = rank == 0 ? std::fabs(input) : fold(op == ncclProd ? ncclProd : ncclSum, magnitude, std::fabs(input));
  }
  if (op == ncclAvg) value = format.integral ? std::trunc(value / ranks) : value / ranks;
  const bool exact = op == ncclMax || op == ncclMin;
  return {value, exact ? 0 : format.epsilon() * magnitude * (ranks + 1)};
}

std::vector<Expected> expected_of(const Format& format, ncclRedOp_t op, int ranks, std::size_t count) {
  std::vector<Expected> expected;
  // The inputs repeat, so that the reference needn't be computed for each element.
  for (std::size_t index = 0; index < count; ++index) expected.push_back(expected_at(format, op, ranks, index, count));
  return expected;
}

bool fits(const std::vector<double>& values, const std::vector<Expected>& expected, std::size_t offset = 0) {
  for (std::size_t index = 0; index < values.size(); ++index) {
    const auto& wanted = expected.at(offset + index);
    if (!(std::fabs(values[index] - wanted.value) <= wanted.allowed)) return false;
  }
  return true;
}

std::string named(const Format& format, ncclRedOp_t op) {
  return std::string(format.name) + " with op " + std::to_string(op);
}

}  // namespace

TEST_CASE("an allreduce gives all ranks the same bits, for all types and ops", "[3-gpus]") {
  constexpr std::size_t count = 203;
  const auto formats = formats_of(nccl_version());
  std::vector<std::vector<Words>> results(ranks_of_test);
  run_ranks(ranks_of_test, Mode::nonblocking, [&](Rank& rank) {
    for (const auto& format : formats) {
      const Array<unsigned char> input(encode(format, input_of(format, rank.rank, count)));
      const Array<unsigned char> output(blank, count * format.bytes);
      for (const auto op : all_ops) {
        rank.finish(NC(ncclAllReduce)(input.at(), output.at(), count, format.type, op, rank.comm, rank.stream()));
        results[static_cast<std::size_t>(rank.rank)].push_back(output.get());
      }
    }
  });
  REQUIRE(results.front().size() == formats.size() * std::size(all_ops));
  std::size_t at = 0;
  for (const auto& format : formats)
    for (const auto op : all_ops) {
      INFO(named(format, op));
      CHECK(results[1][at] == results[0][at]);
      CHECK(results[2][at] == results[0][at]);
      CHECK(fits(decode(format, results[0][at]), expected_of(format, op, ranks_of_test, count)));
      ++at;
    }
}

TEST_CASE("a reduce gives the root the result, and leaves the others' memory", "[3-gpus]") {
  constexpr std::size_t count = 50;
  const auto formats = formats_of(nccl_version());
  run_ranks(ranks_of_test, Mode::nonblocking, [&](Rank& rank) {
    for (const auto& format : formats) {
      const Array<unsigned char> input(encode(format, input_of(format, rank.rank, count)));
      const Words before(count * format.bytes, 0x33);
      const Array<unsigned char> output(before);
      for (const auto op : all_ops)
        for (int root = 0; root < rank.ranks; ++root) {
          output.set(before);
          rank.finish(NC(ncclReduce)(input.at(), output.at(), count, format.type, op, root, rank.comm, rank.stream()));
          const auto result = output.get();
          if (root != rank.rank) MUST(result == before);
          else MUST(fits(decode(format, result), expected_of(format, op, rank.ranks, count)));
        }
    }
  });
}

TEST_CASE("a reduce_scatter gives each rank its part", "[3-gpus]") {
  constexpr std::size_t count = 20;
  const auto formats = formats_of(nccl_version());
  run_ranks(ranks_of_test, Mode::nonblocking, [&](Rank& rank) {
    const auto all = count * static_cast<std::size_t>(rank.ranks), offset = count * static_cast<std::size_t>(rank.rank);
    for (const auto& format : formats) {
      const Array<unsigned char> input(encode(format, input_of(format, rank.rank, all)));
      const Array<unsigned char> output(blank, count * format.bytes);
      for (const auto op : all_ops) {
        rank.finish(NC(ncclReduceScatter)(input.at(), output.at(), count, format.type, op, rank.comm, rank.stream()));
        MUST(fits(decode(format, output.get()), expected_of(format, op, rank.ranks, all), offset));
      }
    }
  });
}

TEST_CASE("reductions work in place", "[3-gpus]") {
  run_ranks(ranks_of_test, Mode::nonblocking, [](Rank& rank) {
    const auto own = static_cast<float>(rank.rank + 1);
    const auto part = static_cast<std::size_t>(rank.rank) * 8;
    const Array<float> values(std::vector<float>(24, own));
    rank.finish(NC(ncclAllReduce)(values.at(), values.at(), 24, ncclFloat32, ncclSum, rank.comm, rank.stream()));
    MUST(values.get() == std::vector<float>(24, 6));
    values.set(std::vector<float>(24, own));
    rank.finish(NC(ncclReduce)(values.at(), values.at(), 24, ncclFloat32, ncclSum, 1, rank.comm, rank.stream()));
    MUST(values.get() == std::vector<float>(24, rank.rank == 1 ? 6 : own));
    values.set(std::vector<float>(24, own));
    rank.finish(NC(ncclReduceScatter)(values.at(), values.at(part), 8, ncclFloat32, ncclSum, rank.comm, rank.stream()));
    auto expected = std::vector<float>(24, own);
    std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(part), 8, 6.0F);
    MUST(values.get() == expected);
  });
}

// "ncclRedOpCreatePreMulSum": each rank multiplies by its own scalar, before the sum.
TEST_CASE("a sum may multiply the inputs by a scalar of the host or of the device", "[3-gpus]") {
  const auto formats = formats_of(nccl_version());
  run_ranks(ranks_of_test, Mode::nonblocking, [&](Rank& rank) {
    for (const auto& format : formats) {
      const Array<unsigned char> input(encode(format, std::vector<double>(9, 2)));
      const Array<unsigned char> output(blank, 9 * format.bytes);
      auto scalar = encode(format, {static_cast<double>(rank.rank + 1)});
      const Array<unsigned char> device_scalar(scalar);
      for (const auto residence : {ncclScalarHostImmediate, ncclScalarDevice}) {
        void* const address = residence == ncclScalarDevice ? device_scalar.at() : scalar.data();
        ncclRedOp_t op = ncclSum;
        MUST_NC(NC(ncclRedOpCreatePreMulSum)(&op, address, format.type, residence, rank.comm));
        MUST(op >= ncclNumOps);
        const auto result = NC(ncclAllReduce)(input.at(), output.at(), 9, format.type, op, rank.comm, rank.stream());
        // "An operator may be destroyed as soon as the last NCCL function which is given that operator returns."
        MUST_NC(settled(rank.comm, result));
        MUST_NC(NC(ncclRedOpDestroy)(op, rank.comm));
        rank.finish();
        MUST(decode(format, output.get()) == std::vector<double>(9, 12));
      }
    }
  });
}

TEST_CASE("a scalar of the device is read when the op runs") {
  const OnDevice on(0);
  const auto id = unique_id();
  ncclComm_t comm = nullptr;
  REQUIRE(NC(ncclCommInitRank)(&comm, 1, id, 0) == ncclSuccess);
  {
    const Array<float> values({1, 2, 3}), scalar({5});
    ncclRedOp_t op = ncclSum;
    REQUIRE(NC(ncclRedOpCreatePreMulSum)(&op, scalar.at(), ncclFloat32, ncclScalarDevice, comm) == ncclSuccess);
    scalar.set({10});
    REQUIRE(NC(ncclAllReduce)(values.at(), values.at(), 3, ncclFloat32, op, comm, as_stream(on.stream())) ==
            ncclSuccess);
    on.synchronize();
    CHECK(values.get() == std::vector<float>{10, 20, 30});
    CHECK(NC(ncclRedOpDestroy)(op, comm) == ncclSuccess);
  }
  CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}

TEST_CASE("an op is for its communicator and its type, and built-in ones can't be destroyed") {
  const OnDevice on(0);
  ncclComm_t comm = nullptr;
  REQUIRE(NC(ncclCommInitRank)(&comm, 1, unique_id(), 0) == ncclSuccess);
  {
    const Array<double> values(blank, 4);
    float scalar = 2;
    ncclRedOp_t op = ncclSum;
    REQUIRE(NC(ncclRedOpCreatePreMulSum)(&op, &scalar, ncclFloat32, ncclScalarHostImmediate, comm) == ncclSuccess);
    const auto reduce = [&](ncclDataType_t type, ncclRedOp_t with) {
      return NC(ncclAllReduce)(values.at(), values.at(), 4, type, with, comm, as_stream(on.stream()));
    };
    CHECK(reduce(ncclFloat64, op) == ncclInvalidArgument);
    CHECK(reduce(ncclFloat32, op) == ncclSuccess);
    on.synchronize();
    CHECK(NC(ncclRedOpDestroy)(ncclSum, comm) == ncclInvalidArgument);
    CHECK(NC(ncclRedOpDestroy)(op, comm) == ncclSuccess);
    CHECK(reduce(ncclFloat32, op) == ncclInvalidArgument);
    CHECK(reduce(static_cast<ncclDataType_t>(14), ncclSum) == ncclInvalidArgument);
    CHECK(reduce(ncclFloat32, static_cast<ncclRedOp_t>(99999)) == ncclInvalidArgument);
  }
  CHECK(NC(ncclCommDestroy)(comm) == ncclSuccess);
}
