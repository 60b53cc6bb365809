// Which launch a call becomes: kernels, blocks, what is loaded as vectors, where addresses lie; and what is refused.
#include <catch2/catch.hpp>

#include <array>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "collective/kernels_cases.hpp"
#include "daemon/gpu/kernels/image.hpp"
#include "daemon/gpu/kernels/launch.hpp"

namespace {

using muster::Code;
using muster::DType;
using muster::ReduceOp;
using namespace musterd::gpu::kernels;

constexpr Address base = 0x7f0000000000;

std::vector<Address> addresses(std::size_t number, Address first = base, Address step = 1 << 20) {
  std::vector<Address> all(number);
  for (Address& each : all) {
    each = first;
    first += step;
  }
  return all;
}

Launch fold(DType dtype, ReduceOp op, std::uint64_t count, const std::vector<Address>& inputs,
            const std::vector<Address>& outputs, Gpu gpu = {}) {
  return launch_fold({dtype, op, count, inputs, outputs}, gpu).value();
}

Walk walk_of(const Launch& launch) { return std::get<FewArguments>(launch.arguments).walk; }

std::string refusal(DType dtype, ReduceOp op, std::uint64_t count, const std::vector<Address>& inputs,
                    const std::vector<Address>& outputs) {
  const auto launch = launch_fold({dtype, op, count, inputs, outputs}, {});
  REQUIRE(!launch.ok());
  REQUIRE(launch.error().code() == Code::invalid);
  return launch.error().message();
}

TEST_CASE("the number of ranks and outputs chooses between three kernels of a fold") {
  const auto name = [](std::size_t ranks, std::size_t outputs) {
    return std::string(fold(DType::float32, ReduceOp::sum, 10, addresses(ranks), addresses(outputs, 2 * base)).kernel);
  };
  CHECK(name(1, 1) == "muster_fold_few_sum_f32");
  CHECK(name(8, 1) == "muster_fold_few_sum_f32");
  CHECK(name(9, 1) == "muster_fold_many_sum_f32");
  CHECK(name(1024, 1) == "muster_fold_many_sum_f32");
  CHECK(name(2, 2) == "muster_scan_sum_f32");
}

TEST_CASE("pairs of dtype and op share kernels where the bits are the same") {
  const auto name = [](DType dtype, ReduceOp op) {
    return std::string(fold(dtype, op, 10, addresses(2), addresses(1, 2 * base)).kernel).substr(16);
  };
  CHECK(name(DType::int32, ReduceOp::sum) == name(DType::uint32, ReduceOp::sum));
  CHECK(name(DType::complex64, ReduceOp::sum) == "sum_f32");
  CHECK(name(DType::bool_, ReduceOp::min) == name(DType::bool_, ReduceOp::land));
  CHECK(name(DType::int64, ReduceOp::bxor) == name(DType::uint8, ReduceOp::bxor));
  CHECK(name(DType::int32, ReduceOp::min) != name(DType::uint32, ReduceOp::min));
}

TEST_CASE("what is aligned together is loaded as vectors") {
  const auto walk = [](Address input, Address second, Address output, std::uint64_t count) {
    return walk_of(fold(DType::float32, ReduceOp::sum, count, {base + input, 2 * base + second}, {3 * base + output}));
  };
  const Walk aligned = walk(0, 0, 0, 103);
  CHECK(aligned.count == 103);
  CHECK(aligned.head == 0);
  CHECK(aligned.vectors == 25);
  CHECK(aligned.aligned_outputs == 1);
  const Walk together = walk(12, 12, 0, 103);
  CHECK(together.head == 1);
  CHECK(together.vectors == 25);
  CHECK(together.aligned_outputs == 0);
  CHECK(walk(12, 12, 12, 103).aligned_outputs == 1);
  CHECK(walk(4, 8, 0, 103).vectors == 0);
  CHECK(walk(2, 2, 0, 103).vectors == 0);  // no element is aligned
  CHECK(walk(0, 0, 2, 103).vectors == 0);
  CHECK(walk(4, 4, 0, 2).head == 2);
}

TEST_CASE("there are as many threads as vectors, and not more than a GPU can use") {
  const auto blocks = [](std::uint64_t count, std::uint32_t multiprocessors) {
    return fold(DType::float32, ReduceOp::sum, count, addresses(2), addresses(1, 2 * base), {multiprocessors}).blocks;
  };
  CHECK(blocks(1, 100) == 1);
  CHECK(blocks(4 * 256, 100) == 1);
  CHECK(blocks(4 * 256 + 4, 100) == 2);
  CHECK(blocks(std::uint64_t{1} << 40, 100) == 3200);
  CHECK(blocks(std::uint64_t{1} << 40, 0) == 32);
}

TEST_CASE("a launch carries 64 addresses, and more of them are a table") {
  const auto launch = [](std::size_t ranks, std::size_t outputs) {
    return fold(DType::int8, ReduceOp::sum, 10, addresses(ranks), addresses(outputs, 2 * base));
  };
  CHECK(launch(63, 1).table.empty());
  CHECK(launch(32, 32).table.empty());
  Launch large = launch(64, 2);
  REQUIRE(large.table.size() == 66);
  CHECK(large.table[63] == addresses(64)[63]);
  CHECK(large.table[65] == addresses(2, 2 * base)[1]);
  large.set_table(0x1000);
  CHECK(std::get<ManyArguments>(large.arguments).table == 0x1000);
  CHECK(large.parameter_bytes() == sizeof(ManyArguments));
}

TEST_CASE("nothing to do is no launch") {
  CHECK(fold(DType::float32, ReduceOp::sum, 0, {base}, {base}).is_empty());
  CHECK(fold(DType::float32, ReduceOp::sum, 0, {0}, {0}).is_empty());  // empty arrays have no addresses
  CHECK(launch_copy({}, {}).value().is_empty());
  const std::array empty{Piece{0, 0, 0}};
  CHECK(launch_copy(empty, {}).value().is_empty());
  CHECK(launch_premultiply({DType::float32, 2.0, 0, 0, 0}, {}).value().is_empty());
}

TEST_CASE("what does not exist is refused") {
  const auto two = addresses(2);
  CHECK(refusal(DType::float32, ReduceOp::band, 1, two, {base}) == "band of float32 has no meaning");
  CHECK(refusal(DType::complex64, ReduceOp::min, 1, two, {base}) == "min of complex64 has no meaning");
  CHECK(refusal(DType::float32, ReduceOp::sum, 1, {}, {base}) == "a fold of 0 inputs, but it takes 1 to 1024");
  CHECK(refusal(DType::float32, ReduceOp::sum, 1, addresses(1025), {base}) ==
        "a fold of 1025 inputs, but it takes 1 to 1024");
  CHECK(refusal(DType::float32, ReduceOp::sum, 1, two, {}).starts_with("0 outputs"));
  CHECK(refusal(DType::float32, ReduceOp::sum, 1, two, addresses(3)).starts_with("3 outputs of a fold of 2 inputs"));
  CHECK(refusal(DType::float32, ReduceOp::sum, 1, {base, 0}, {base}).ends_with("at addresses that can't hold them"));
  CHECK(refusal(DType::float32, ReduceOp::sum, 1, two, {0}).ends_with("at addresses that can't hold them"));
  CHECK(refusal(DType::float32, ReduceOp::sum, std::uint64_t{1} << 60, two, {base}).starts_with("a fold of 1152"));
  CHECK(refusal(DType::float32, ReduceOp::sum, 1, {~Address{0}}, {base}).starts_with("a fold of 1 elements"));
}

TEST_CASE("a scan with a divisor is refused") {
  const auto two = addresses(2);
  const auto launch = launch_fold({DType::float32, ReduceOp::mean, 1, two, two, 2}, {});
  REQUIRE(!launch.ok());
  CHECK(launch.error().message() == "a scan with a divisor of 2");
}

TEST_CASE("every valid pair of dtype and op has a kernel, and no other") {
  for (std::size_t dtype = 0; dtype < muster::dtype_count; ++dtype) {
    for (std::size_t op = 0; op < muster::reduce_op_count; ++op) {
      const auto two = addresses(2);
      const FoldCall call{static_cast<DType>(dtype), static_cast<ReduceOp>(op), 5, two, {two.data(), 1}};
      CHECK(launch_fold(call, {}).ok() == muster::result_dtype(call.dtype, call.op).has_value());
    }
  }
}

#ifdef HAS_FATBIN

TEST_CASE("the image is one whole fatbin") {
  CHECK(std::string(image_missing()) == "");
  struct Header {  // as cuobjdump and the CUDA driver read it
    std::uint32_t magic;
    std::uint16_t version, header_bytes;
    std::uint64_t bytes;
  } header{};
  REQUIRE(image().size() > sizeof header);
  std::memcpy(&header, image().data(), sizeof header);
  CHECK(header.magic == 0xba55ed50);
  CHECK(header.header_bytes + header.bytes == image().size());
  CHECK(reinterpret_cast<std::uintptr_t>(image().data()) % 8 == 0);
}

#else

TEST_CASE("a build without kernels says so") {
  CHECK(image().empty());
  CHECK(std::string(image_missing()) != "");
}

#endif

}  // namespace
