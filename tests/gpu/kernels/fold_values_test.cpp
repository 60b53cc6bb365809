// Folds of small whole numbers on the host's version of a GPU, against the reference of the collectives' tests, which
// shares no line with any kernel.
#include <catch2/catch.hpp>

#include <vector>

#include "collective/kernels_cases.hpp"
#include "collective/reference.hpp"
#include "daemon/gpu/kernels/launch.hpp"
#include "device_memory.hpp"

namespace {

using muster::testing::Case;
using musterd::gpu::kernels::Address;
using musterd::gpu::kernels::launch_fold;
using musterd::gpu::testing::Access;
using musterd::gpu::testing::DeviceBuffer;
using musterd::gpu::testing::run;
using musterd::testing::Tensor;

/// Small enough for every sum and product to be exact; zeros for `land` and `lor`.
Tensor small_numbers(muster::DType dtype, std::size_t rank, std::int64_t count) {
  Tensor made{dtype, {count}, {}};
  for (std::int64_t i = 0; i < count; ++i) {
    const auto value =
        static_cast<double>((static_cast<std::int64_t>(rank) * 7 + i * 3) % (dtype == muster::DType::bool_ ? 2 : 3));
    made.values.emplace_back(value, muster::is_complex(dtype) ? value - 1 : 0);
  }
  return made;
}

TEST_CASE("folds give what arithmetic gives") {
  constexpr std::int64_t count = 45;
  for (const Case which : muster::testing::cases()) {
    for (const std::size_t ranks : std::initializer_list<std::size_t>{1, 2, 3, 4, 5}) {
      INFO(muster::testing::describe(which) << ", " << ranks << " ranks");
      std::vector<Tensor> tensors;
      std::vector<std::unique_ptr<DeviceBuffer>> inputs;
      std::vector<Address> addresses;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        tensors.push_back(small_numbers(which.dtype, rank, count));
        inputs.push_back(
            std::make_unique<DeviceBuffer>(musterd::testing::encode(tensors.back()).bytes, 0, Access::read));
        addresses.push_back(inputs.back()->address());
      }
      const Tensor expected = musterd::testing::fold(which.op, tensors);
      DeviceBuffer output(count * muster::testing::output_size(which), 0, Access::write);
      const Address to = output.address();
      run(launch_fold({which.dtype, which.op, count, addresses, {&to, 1}}, {}).value());
      REQUIRE(musterd::testing::decode(expected.dtype, expected.shape, output.bytes().data()) == expected);
    }
  }
}

}  // namespace
