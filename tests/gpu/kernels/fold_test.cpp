// Runs the folds over their whole index space on the host, and compares them bit by bit with the reference of the
// host's own kernels: all dtypes and ops, 1 to 1024 ranks, all tails and alignments, in place, scans.
#include <catch2/catch.hpp>

#include <array>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "collective/kernels_cases.hpp"
#include "collective/kernels_values.hpp"
#include "daemon/collective/kernels/reduce.hpp"
#include "daemon/gpu/kernels/launch.hpp"
#include "device_memory.hpp"

namespace {

using muster::testing::Case;
using muster::testing::cases;
using muster::testing::describe;
using muster::testing::output_size;
using muster::testing::Values;
using musterd::gpu::kernels::Address;
using musterd::gpu::kernels::Gpu;
using musterd::gpu::kernels::launch_fold;
using musterd::gpu::testing::Access;
using musterd::gpu::testing::DeviceBuffer;
using musterd::gpu::testing::run;
using musterd::kernels::reduce_scalar;

using Sizes = std::initializer_list<std::size_t>;
using Bytes = std::vector<std::byte>;

/// How far the buffers are shifted from an aligned address: the first input, each input from the one before, the first
/// output, each output from the one before.
struct Shifts {
  std::size_t input = 0;
  std::size_t input_step = 0;
  std::size_t output = 0;
  std::size_t output_step = 0;
};

/// The inputs of one fold, and all of its prefixes as the reference has them.
class Workload {
 public:
  Workload(Case which, std::size_t ranks, std::size_t count) : which_(which) {
    Values values(which.dtype);
    std::vector<const std::byte*> inputs;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      inputs_.push_back(values.make(count * muster::size_of(which.dtype)));
      prefixes_.emplace_back(count * output_size(which));
    }
    std::vector<std::byte*> prefixes;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      inputs.push_back(inputs_[rank].data());
      prefixes.push_back(prefixes_[rank].data());
    }
    reduce_scalar({.dtype = which.dtype,
                   .op = which.op,
                   .inputs = inputs,
                   .output = nullptr,
                   .count = count,
                   .prefixes = prefixes});
  }

  /// Folds the first `count` elements on a GPU of that many multiprocessors, into the last `outputs` prefixes. Returns
  /// whether they are the reference's.
  bool agrees(std::size_t count, std::size_t outputs, Shifts shifts, Gpu gpu = {}) const {
    std::vector<std::unique_ptr<DeviceBuffer>> in;
    std::vector<std::unique_ptr<DeviceBuffer>> out;
    std::vector<Address> from;
    std::vector<Address> to;
    for (const Bytes& input : inputs_) {
      const std::size_t shift = (shifts.input + in.size() * shifts.input_step) % 64;
      in.push_back(
          std::make_unique<DeviceBuffer>(part(input, count * muster::size_of(which_.dtype)), shift, Access::read));
      from.push_back(in.back()->address());
    }
    for (std::size_t i = 0; i < outputs; ++i) {
      const std::size_t shift = (shifts.output + i * shifts.output_step) % 64;
      out.push_back(std::make_unique<DeviceBuffer>(count * output_size(which_), shift, Access::write));
      std::memset(out.back()->bytes().data(), 0xa5, out.back()->bytes().size());
      to.push_back(out.back()->address());
    }
    run(launch_fold({which_.dtype, which_.op, count, from, to}, gpu).value());
    for (std::size_t i = 0; i < outputs; ++i) {
      const Bytes& expected = prefixes_[inputs_.size() - outputs + i];
      if (!same(out[i]->bytes(), expected)) return false;
    }
    return true;
  }

  /// Folds into the inputs: a plain fold into the first one, a scan's prefixes each into its rank's. Only if elements
  /// of the result are as large as those of the inputs.
  bool agrees_in_place(std::size_t count, bool scans) const {
    std::vector<std::unique_ptr<DeviceBuffer>> in;
    std::vector<Address> from;
    for (const Bytes& input : inputs_) {
      in.push_back(std::make_unique<DeviceBuffer>(part(input, count * muster::size_of(which_.dtype)), 0,
                                                  scans || in.empty() ? Access::write : Access::read));
      from.push_back(in.back()->address());
    }
    const std::span<const Address> to(from.data(), scans ? from.size() : 1);
    run(launch_fold({which_.dtype, which_.op, count, from, to}, Gpu{2}).value());
    for (std::size_t i = 0; i < to.size(); ++i)
      if (!same(in[i]->bytes(), prefixes_[inputs_.size() - to.size() + i])) return false;
    return true;
  }

  std::size_t ranks() const { return inputs_.size(); }

 private:
  static std::span<const std::byte> part(const Bytes& whole, std::size_t bytes) {
    return std::span(whole).first(bytes);
  }
  static bool same(std::span<const std::byte> got, const Bytes& expected) {
    return got.empty() || std::memcmp(got.data(), expected.data(), got.size()) == 0;
  }

  Case which_;
  std::vector<Bytes> inputs_;
  std::vector<Bytes> prefixes_;
};

/// Calls `disagreement(work)` for every case and number of ranks; it returns what went wrong.
template <class Disagreement>
void everywhere(Sizes ranks, std::size_t count, Disagreement disagreement) {
  for (const Case which : cases()) {
    for (const std::size_t n : ranks) {
      INFO(describe(which) << ", " << n << " ranks");
      const std::string wrong = disagreement(Workload(which, n, count), which);
      REQUIRE(wrong == "");
    }
  }
}

TEST_CASE("a GPU's fold has the bits of the host's, for every count") {
  everywhere({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 64}, 1501, [](const Workload& work, Case) {
    for (const std::size_t count : Sizes{0, 1, 2, 3, 7, 15, 16, 17, 31, 33, 255, 1501})
      if (!work.agrees(count, 1, {})) return std::to_string(count) + " elements";
    return std::string();
  });
}

TEST_CASE("a thread takes more than one vector if there are more of them than threads") {
  constexpr std::size_t threads = 32 * 256;  // the most that one multiprocessor gets
  for (const Case which : cases()) {
    const std::size_t lanes = 16 / muster::size_of(which.dtype);
    const std::size_t count = threads * lanes + 100 * lanes + lanes / 2;
    for (const std::size_t ranks : Sizes{2, 9}) {
      INFO(describe(which) << ", " << ranks << " ranks");
      REQUIRE(Workload(which, ranks, count).agrees(count, 1, {}));
    }
  }
}

TEST_CASE("addresses don't matter: inputs that are aligned together", "[thousands]") {
  everywhere({1, 3, 8, 9}, 77, [](const Workload& work, Case) {
    for (std::size_t input = 0; input < 32; ++input) {
      for (std::size_t output = 0; output < 17; ++output)
        for (const std::size_t count : Sizes{1, 5, 77})
          if (!work.agrees(count, 1, {input, 16, output, 0}))
            return std::to_string(count) + " elements, shifted by " + std::to_string(input) + " and " +
                   std::to_string(output);
    }
    return std::string();
  });
}

TEST_CASE("addresses don't matter: inputs that are not aligned together") {
  everywhere({2, 5, 9}, 77, [](const Workload& work, Case) {
    for (std::size_t step = 1; step < 16; ++step)
      for (const std::size_t output : Sizes{0, 1, 4, 8})
        if (!work.agrees(77, 1, {step / 2, step, output, 0})) return "each shifted by " + std::to_string(step);
    return std::string();
  });
}

TEST_CASE("a fold may write into its first input, and a scan into all of them") {
  everywhere({1, 2, 8, 9, 17}, 1000, [](const Workload& work, Case which) {
    if (output_size(which) != muster::size_of(which.dtype)) return "";
    if (!work.agrees_in_place(1000, false) || !work.agrees_in_place(7, false)) return "a fold";
    return work.agrees_in_place(1000, true) && work.agrees_in_place(7, true) ? "" : "a scan";
  });
}

TEST_CASE("the parts of a mean are sums, and a mean of one sum divides it") {
  for (const std::size_t ranks : Sizes{2, 9}) {
    std::vector<std::unique_ptr<DeviceBuffer>> inputs;
    std::vector<Address> from;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const std::vector<std::int8_t> values(21, 127);
      inputs.push_back(std::make_unique<DeviceBuffer>(std::as_bytes(std::span(values)), 0, Access::read));
      from.push_back(inputs.back()->address());
    }
    DeviceBuffer sums(21 * sizeof(double), 0, Access::write);
    DeviceBuffer means(21 * sizeof(double), 0, Access::write);
    const std::array to{sums.address(), means.address()};
    run(launch_fold({muster::DType::int8, muster::ReduceOp::mean, 21, from, {&to[0], 1}, 1}, {}).value());
    run(launch_fold({muster::DType::float64, muster::ReduceOp::mean, 21, {&to[0], 1}, {&to[1], 1}, 3}, {}).value());
    for (std::size_t i = 0; i < 21; ++i) {
      double sum = 0;
      double mean = 0;
      std::memcpy(&sum, sums.bytes().data() + i * sizeof sum, sizeof sum);
      std::memcpy(&mean, means.bytes().data() + i * sizeof mean, sizeof mean);
      REQUIRE(sum == 127.0 * static_cast<double>(ranks));
      REQUIRE(mean == sum / 3);
    }
  }
}

TEST_CASE("each prefix of a scan has the bits of its own fold") {
  everywhere({2, 3, 8, 9, 17}, 300, [](const Workload& work, Case) {
    for (const std::size_t outputs : {work.ranks(), work.ranks() - 1, std::size_t{2}}) {
      for (const std::size_t count : Sizes{0, 1, 2, 15, 33, 300})
        if (!work.agrees(count, outputs, {})) return std::to_string(count) + " elements";
      for (const std::size_t shift : Sizes{1, 2, 4, 8, 16})
        if (!work.agrees(77, outputs, {shift, 0, shift, shift}) || !work.agrees(77, outputs, {shift, shift, 0, 0}))
          return "shifted by " + std::to_string(shift);
    }
    return std::string();
  });
}

TEST_CASE("more addresses than a launch carries lie in a table") {
  everywhere({63, 64, 65, 1024}, 19, [](const Workload& work, Case) {
    if (!work.agrees(19, 1, {})) return "a fold";
    return work.agrees(19, work.ranks(), {}) ? "" : "a scan";
  });
}

}  // namespace
