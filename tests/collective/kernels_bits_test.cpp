// Compares every dispatch target of this CPU with the reference, bit by bit: all dtypes and ops, 1 to 17 ranks, all
// tails, odd addresses, streamed and not, in one piece and in several. Also compares a scan with the folds that its
// prefixes are.
#include <catch2/catch.hpp>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "daemon/collective/kernels/reduce.hpp"
#include "kernels_cases.hpp"
#include "kernels_targets.hpp"
#include "kernels_values.hpp"

namespace {

using muster::testing::Case;
using muster::testing::cases;
using muster::testing::describe;
using muster::testing::OnTarget;
using muster::testing::output_size;
using muster::testing::targets;
using muster::testing::Values;
using musterd::kernels::reduce;
using musterd::kernels::Reduce;
using musterd::kernels::reduce_scalar;

constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
constexpr std::byte guard{0xa5};

// One reduction; any part of it can be computed at any address.
class Workload {
 public:
  Workload(Case which, std::size_t ranks, std::size_t count) : which_(which), expected_(count * output_size(which)) {
    Values values(which.dtype);
    for (std::size_t rank = 0; rank < ranks; ++rank)
      inputs_.push_back(values.make(count * muster::size_of(which.dtype)));
    std::vector<const std::byte*> inputs;
    for (const auto& input : inputs_) inputs.push_back(input.data());
    reduce_scalar(call(inputs, expected_.data(), count));
  }

  // Reduces elements [first, first + count) with every buffer moved by a few bytes of its own. Returns whether the bits
  // are those of the whole and nothing else was written. Inputs end where their memory ends, so ASan sees reads beyond
  // it.
  bool agrees(std::size_t first, std::size_t count, std::size_t shift, std::size_t stream_bytes_min) const {
    const std::size_t bytes = count * muster::size_of(which_.dtype);
    std::vector<std::unique_ptr<std::byte[]>> moved;
    std::vector<const std::byte*> inputs;
    for (const auto& input : inputs_) {
      const std::size_t offset = shift * (1 + 3 * inputs.size()) % 64;
      moved.push_back(std::make_unique_for_overwrite<std::byte[]>(offset + bytes));
      std::memcpy(moved.back().get() + offset, input.data() + first * muster::size_of(which_.dtype), bytes);
      inputs.push_back(moved.back().get() + offset);
    }
    const std::size_t out_bytes = count * output_size(which_);
    std::vector<std::byte> written(64 + shift + out_bytes + 64, guard);
    std::byte* const output = written.data() + 64 + shift;
    Reduce now = call(inputs, output, count);
    now.stream_bytes_min = stream_bytes_min;
    reduce(now);

    std::vector<std::byte> expected(written.size(), guard);
    std::memcpy(&expected[64 + shift], expected_.data() + first * output_size(which_), out_bytes);
    return written == expected;
  }

 private:
  Reduce call(const std::vector<const std::byte*>& inputs, std::byte* output, std::size_t count) const {
    return {.dtype = which_.dtype, .op = which_.op, .inputs = inputs, .output = output, .count = count};
  }

  Case which_;
  std::vector<std::vector<std::byte>> inputs_;
  std::vector<std::byte> expected_;
};

// Compares the prefixes of one scan with a fold for each of them.
class Prefixes {
 public:
  Prefixes(Case which, std::size_t ranks, std::size_t count) : which_(which) {
    Values values(which.dtype);
    for (std::size_t rank = 0; rank < ranks; ++rank)
      inputs_.push_back(values.make(count * muster::size_of(which.dtype)));
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      std::vector<const std::byte*> first;
      for (std::size_t i = 0; i <= rank; ++i) first.push_back(inputs_[i].data());
      expected_.emplace_back(count * output_size(which));
      reduce_scalar(
          {.dtype = which.dtype, .op = which.op, .inputs = first, .output = expected_.back().data(), .count = count});
    }
  }

  // Scans elements [first, first + count) with `scan`, without the prefixes before `wanted`.
  template <class Scan>
  bool agree(std::size_t first, std::size_t count, std::size_t wanted, Scan scan) const {
    std::vector<const std::byte*> inputs;
    std::vector<std::vector<std::byte>> written;
    std::vector<std::byte*> prefixes;
    for (const auto& input : inputs_) {
      inputs.push_back(input.data() + first * muster::size_of(which_.dtype));
      written.emplace_back(count * output_size(which_) + 1, guard);
      prefixes.push_back(written.size() > wanted ? written.back().data() : nullptr);
    }
    Reduce call{.dtype = which_.dtype, .op = which_.op, .inputs = inputs, .output = nullptr, .count = count};
    call.prefixes = prefixes;
    scan(call);
    for (std::size_t rank = 0; rank < written.size(); ++rank) {
      std::vector<std::byte> expected(written[rank].size(), guard);
      if (rank >= wanted)
        std::memcpy(expected.data(), expected_[rank].data() + first * output_size(which_), count * output_size(which_));
      if (written[rank] != expected) return false;
    }
    return true;
  }

 private:
  Case which_;
  std::vector<std::vector<std::byte>> inputs_;
  std::vector<std::vector<std::byte>> expected_;
};

// Calls `disagreement(which, ranks)` for every combination on every target; it returns what went wrong.
template <class Disagreement>
void everywhere(std::initializer_list<std::size_t> ranks, Disagreement disagreement) {
  for (const std::int64_t target : targets()) {
    const OnTarget on(target);
    for (const Case which : cases()) {
      for (const std::size_t n : ranks) {
        INFO(describe(which) << ", " << n << " ranks, on " << hwy::TargetName(target));
        const std::string wrong = disagreement(which, n);
        REQUIRE(wrong == "");
      }
    }
  }
}

using Sizes = std::initializer_list<std::size_t>;

TEST_CASE("every target gives the bits of the reference, for every count") {
  everywhere({1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33}, [](Case which, std::size_t ranks) {
    const Workload work(which, ranks, 700);
    std::vector<std::size_t> counts(131);
    std::iota(counts.begin(), counts.end(), std::size_t{0});
    for (const std::size_t count : Sizes{255, 256, 257, 319, 511, 513, 639, 700}) counts.push_back(count);
    for (const std::size_t count : counts) {
      if (!work.agrees(0, count, 0, never)) return std::to_string(count) + " elements";
    }
    return std::string();
  });
}

TEST_CASE("addresses don't matter, nor do streaming stores") {
  everywhere({1, 3, 8, 18}, [](Case which, std::size_t ranks) {
    const Workload work(which, ranks, 300);
    for (std::size_t shift = 0; shift < 33; ++shift) {
      for (const std::size_t count : Sizes{1, 31, 33, 65, 129, 300}) {
        if (!work.agrees(0, count, shift, never) || !work.agrees(0, count, shift, 1))
          return std::to_string(count) + " elements, moved by " + std::to_string(shift);
      }
    }
    return std::string();
  });
}

TEST_CASE("the parts of a reduction have the bits of the whole, wherever it is cut") {
  constexpr std::size_t whole = 9000;  // more than a block of accumulators
  everywhere({3, 20}, [](Case which, std::size_t ranks) {
    const Workload work(which, ranks, whole);
    for (const std::size_t cut : Sizes{0, 1, 15, 128, 1023, 2500, whole - 1}) {
      if (!work.agrees(0, cut, cut % 16, never) || !work.agrees(cut, whole - cut, 0, 1))
        return "cut at " + std::to_string(cut);
    }
    return std::string();
  });
}

TEST_CASE("each prefix of a scan has the bits of its own fold, for every target") {
  everywhere({1, 2, 3, 8, 9, 17}, [](Case which, std::size_t ranks) {
    const Prefixes prefixes(which, ranks, 9000);
    for (const std::size_t count : Sizes{1, 2, 3, 5, 8, 13, 16, 31, 32, 33, 63, 64, 65, 127, 129, 300, 9000})
      if (!prefixes.agree(0, count, 0, reduce)) return std::to_string(count) + " elements";
    if (!prefixes.agree(4321, 2345, 1, reduce)) return std::string("a part, without the first prefix");
    return std::string();
  });
}

TEST_CASE("the reference scans as it folds") {
  for (const Case which : cases()) {
    INFO(describe(which));
    const Prefixes prefixes(which, 5, 100);
    CHECK(prefixes.agree(0, 100, 0, reduce_scalar));
    CHECK(prefixes.agree(7, 50, 1, reduce_scalar));
  }
}

}  // namespace
