// Compares every dispatch target of this CPU with the reference, bit by bit: all dtypes and ops, 1 to 17 ranks, all
// tails, odd addresses, streamed and not, in one piece and in several. Also compares a scan with the folds that its
// prefixes are.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "daemon/collective/kernels/half.hpp"
#include "daemon/collective/kernels/reduce.hpp"
#include "kernels_targets.hpp"

namespace {

using muster::DType;
using muster::testing::Case;
using muster::testing::cases;
using muster::testing::describe;
using muster::testing::OnTarget;
using muster::testing::output_size;
using muster::testing::targets;
using musterd::kernels::reduce;
using musterd::kernels::Reduce;
using musterd::kernels::reduce_scalar;

constexpr float nan32 = std::numeric_limits<float>::quiet_NaN();
constexpr float inf32 = std::numeric_limits<float>::infinity();
constexpr double nan64 = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
constexpr std::byte guard{0xa5};

// A stretch of elements of `dtype` that mixes ordinary values, special ones and arbitrary bits.
class Values {
 public:
  explicit Values(DType dtype) : dtype_(dtype) {}

  std::vector<std::byte> make(std::size_t bytes) {
    std::vector<std::byte> made(bytes + 16);
    for (std::size_t at = 0; at < bytes;) at += put(&made[at]);
    made.resize(bytes);
    return made;
  }

 private:
  std::size_t put(std::byte* to) {
    switch (dtype_) {
      case DType::float16:
        return put_part<std::uint16_t>(
            to, musterd::kernels::to_float16(ordinary()).bits,
            {0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7c01, 0xfe00});
      case DType::bfloat16:
        return put_part<std::uint16_t>(
            to, musterd::kernels::to_bfloat16(ordinary()).bits,
            {0, 0x8000, 1, 0x8001, 0x7f, 0x80, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7f81, 0xffc0});
      case DType::float32:
      case DType::complex64:
        return put_part<float>(to, ordinary(),
                               {0.0f, -0.0f, 1e-45f, -1e-45f, 1.17549435e-38f, 3.4028235e38f, -3.4028235e38f, inf32,
                                -inf32, nan32, -nan32, std::numeric_limits<float>::signaling_NaN()});
      case DType::float64:
      case DType::complex128:
        return put_part<double>(
            to, static_cast<double>(ordinary()) * 1.000000001,
            {0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308,
             HUGE_VAL, -HUGE_VAL, nan64, -nan64, std::numeric_limits<double>::signaling_NaN()});
      case DType::int64:
      case DType::uint64:
        return put_part<std::uint64_t>(
            to, random_() % 7,
            {0, 1, ~0ull, 1ull << 63, ~0ull >> 1, 1ull << 53 | 1, ~0ull >> 10, ~0ull << 10, 0xffffffff});
      case DType::int32:
      case DType::uint32:
        return put_part<std::uint32_t>(to, static_cast<std::uint32_t>(random_() % 7),
                                       {0, 1, ~0u, 1u << 31, ~0u >> 1, 0xffff});
      case DType::int16:
      case DType::uint16:
        return put_part<std::uint16_t>(to, static_cast<std::uint16_t>(random_() % 7),
                                       {0, 1, 0xffff, 0x8000, 0x7fff, 0xff});
      default: return put_part<std::uint8_t>(to, static_cast<std::uint8_t>(random_() % 7), {0, 1, 0xff, 0x80, 0x7f});
    }
  }

  template <class T>
  std::size_t put_part(std::byte* to, T usual, std::initializer_list<T> special) {
    const std::uint64_t choice = random_() % 8;
    const std::uint64_t bits = random_();
    if (choice == 0) {
      std::memcpy(to, &bits, sizeof(T));
    } else {
      const T value = choice < 3 ? special.begin()[bits % special.size()] : usual;
      std::memcpy(to, &value, sizeof(T));
    }
    return sizeof(T);
  }

  // Half of them small integers, so that equal values and exact ties of rounding occur.
  float ordinary() {
    const auto value = static_cast<float>(static_cast<std::int64_t>(random_() % 4096) - 2048);
    return random_() % 2 == 0 ? value / 64 : value * 1.2345678e-3f;
  }

  DType dtype_;
  std::mt19937_64 random_{20201101};
};

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
