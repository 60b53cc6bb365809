// Copies of many pieces, and premultiplied copies, over their whole index space on the host.
#include <catch2/catch.hpp>

#include <complex>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "daemon/collective/kernels/half.hpp"
#include "daemon/gpu/kernels/launch.hpp"
#include "device_memory.hpp"

namespace {

using muster::DType;
using namespace musterd::gpu::kernels;
using musterd::gpu::testing::Access;
using musterd::gpu::testing::DeviceBuffer;
using musterd::gpu::testing::run;

std::vector<std::byte> noise(std::size_t bytes) {
  std::mt19937 random(7);
  std::vector<std::byte> made(bytes);
  for (std::byte& each : made) each = static_cast<std::byte>(random());
  return made;
}

/// Copies pieces of these sizes, each at its own alignment, and checks each.
void copy_pieces(const std::vector<std::size_t>& sizes, std::size_t shift, std::size_t step, Gpu gpu) {
  const auto content = noise(1 << 16);
  std::vector<std::unique_ptr<DeviceBuffer>> from;
  std::vector<std::unique_ptr<DeviceBuffer>> to;
  std::vector<Piece> pieces;
  for (const std::size_t bytes : sizes) {
    const std::size_t i = from.size();
    from.push_back(
        std::make_unique<DeviceBuffer>(std::span(content).subspan(i % 100, bytes), shift % 64, Access::read));
    to.push_back(std::make_unique<DeviceBuffer>(bytes, (shift + i * step) % 64, Access::write));
    std::memset(to.back()->bytes().data(), 0xa5, bytes);
    pieces.push_back({from.back()->address(), to.back()->address(), bytes});
  }
  run(launch_copy(pieces, gpu).value());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    INFO("piece " << i << " of " << sizes[i] << " bytes, shifted by " << shift << " and " << step);
    REQUIRE(std::ranges::equal(to[i]->bytes(), from[i]->bytes()));
  }
}

TEST_CASE("a piece is copied at any alignment of its ends") {
  for (std::size_t shift = 0; shift < 17; ++shift)
    for (std::size_t step = 0; step < 17; ++step) copy_pieces({100, 1, 0, 15, 16, 17, 33, 1000, 3}, shift, step, {});
}

TEST_CASE("many pieces are copied in one launch") {
  std::vector<std::size_t> sizes;
  for (std::size_t i = 0; i < 24; ++i) sizes.push_back(i * 7);
  copy_pieces(sizes, 3, 4, {8});
  for (std::size_t i = 0; i < 1000; ++i) sizes.push_back(i % 97);
  copy_pieces(sizes, 0, 2, {1});
}

TEST_CASE("a large piece is copied by many blocks, and more than one round of them") {
  copy_pieces({60000, 5}, 5, 0, {8});
  copy_pieces({60000, 59999, 4}, 0, 1, {1});
}

TEST_CASE("more pieces than rows of blocks are copied, too") {
  constexpr std::size_t number = 70000;
  const auto content = noise(2 * number);
  const DeviceBuffer from(content, 0, Access::read);
  DeviceBuffer to(content.size(), 1, Access::write);
  std::memset(to.bytes().data(), 0xa5, to.bytes().size());
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < number; ++i) pieces.push_back({from.address() + 2 * i, to.address() + 2 * i, 2});
  run(launch_copy(pieces, {}).value());
  CHECK(std::ranges::equal(to.bytes(), from.bytes()));
}

TEST_CASE("there is a row of blocks for each piece, up to the limit of a grid") {
  const std::vector<Piece> pieces(70000, Piece{1 << 20, 1 << 24, 64});
  const Launch many = launch_copy(pieces, {100}).value();
  CHECK(many.rows == 65535);
  CHECK(many.blocks == 1);
  CHECK(many.table.size() == 3 * pieces.size());
  const Launch few = launch_copy(std::span(pieces).first(24), {100}).value();
  CHECK(few.rows == 24);
  CHECK(few.table.empty());
}

TEST_CASE("a copy at addresses that can't hold it is refused") {
  const auto message = [](Piece piece) { return launch_copy(std::span(&piece, 1), {}).error().message(); };
  CHECK(message({0, 4096, 1}) == "a copy of 1 bytes at addresses that can't hold them");
  CHECK(message({4096, 0, 1}) == "a copy of 1 bytes at addresses that can't hold them");
  CHECK(message({4096, 4096, ~std::uint64_t{0}}).starts_with("a copy of 18446744073709551615 bytes"));
}

/// Multiplies values on the GPU, at several alignments and counts, and returns what comes out of all of them.
template <class T>
std::vector<T> premultiplied(DType dtype, std::variant<double, std::int64_t> factor, const std::vector<T>& values,
                             std::size_t in_shift, std::size_t out_shift) {
  const DeviceBuffer from(std::as_bytes(std::span(values)), in_shift, Access::read);
  DeviceBuffer to(from.bytes().size(), out_shift, Access::write);
  run(launch_premultiply({dtype, factor, values.size(), from.address(), to.address()}, {}).value());
  std::vector<T> result(values.size());
  std::memcpy(result.data(), to.bytes().data(), to.bytes().size());
  return result;
}

/// Checks 37 elements, which are `values` again and again, against `expected` in the same way.
template <class T>
void check_premultiplied(DType dtype, std::variant<double, std::int64_t> factor, const std::vector<T>& values,
                         const std::vector<T>& expected) {
  std::vector<T> in;
  std::vector<T> out;
  for (std::size_t i = 0; i < 37; ++i) {
    in.push_back(values[i % values.size()]);
    out.push_back(expected[i % expected.size()]);
  }
  for (const std::size_t in_shift : std::initializer_list<std::size_t>{0, 1, 4, 8, 24})
    for (const std::size_t out_shift : std::initializer_list<std::size_t>{0, 1, 4, 8}) {
      INFO(muster::name(dtype) << ", shifted by " << in_shift << " and " << out_shift);
      const std::vector<T> got = premultiplied(dtype, factor, in, in_shift, out_shift);
      REQUIRE(std::memcmp(got.data(), out.data(), out.size() * sizeof(T)) == 0);
    }
}

TEST_CASE("premultiplied integers wrap around") {
  check_premultiplied<std::uint8_t>(DType::uint8, std::int64_t{3}, {1, 100, 255}, {3, 44, 253});
  check_premultiplied<std::int8_t>(DType::int8, std::int64_t{-2}, {1, 100, -128}, {-2, 56, 0});
  check_premultiplied<std::uint16_t>(DType::uint16, std::int64_t{65535}, {65535, 2}, {1, 65534});
  check_premultiplied<std::int32_t>(DType::int32, std::int64_t{-1}, {5, -2147483647 - 1}, {-5, -2147483647 - 1});
  check_premultiplied<std::int64_t>(DType::int64, std::int64_t{1} << 62, {1, 2, 4},
                                    {std::int64_t{1} << 62, std::numeric_limits<std::int64_t>::min(), 0});
}

TEST_CASE("premultiplied floats are rounded once, and every NaN is the same") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  check_premultiplied<float>(DType::float32, 0.1, {1.0f, -0.0f, 1e-45f, -nan}, {0.1f, -0.0f, 0.0f, nan});
  check_premultiplied<double>(DType::float64, 0.1, {3.0, -0.0}, {3.0 * 0.1, -0.0});
  check_premultiplied<std::complex<float>>(DType::complex64, 0.5, {{1, -3}}, {{0.5f, -1.5f}});
  check_premultiplied<std::complex<double>>(DType::complex128, -2.0, {{1, -3}}, {{-2, 6}});
  using musterd::kernels::to_bfloat16;
  using musterd::kernels::to_float16;
  // 1/3 as a float32 times 3: rounded once it is 1; 1/3 as a float16 would give another last bit.
  check_premultiplied<std::uint16_t>(DType::float16, 1.0 / 3, {to_float16(3).bits, 0xfe01, 0x7bff},
                                     {to_float16(1).bits, 0x7e00, to_float16(65504 * (1.0f / 3)).bits});
  check_premultiplied<std::uint16_t>(DType::bfloat16, 1.0 / 3, {to_bfloat16(3).bits, 0xff81, to_bfloat16(7).bits},
                                     {to_bfloat16(1).bits, 0x7fc0, to_bfloat16(7 * (1.0f / 3)).bits});
}

TEST_CASE("a premultiplied copy may write into its input") {
  std::vector<float> values(100, 3.0f);
  DeviceBuffer both(std::as_bytes(std::span(values)), 0, Access::write);
  run(launch_premultiply({DType::float32, 2.0, 100, both.address(), both.address()}, {}).value());
  std::memcpy(values.data(), both.bytes().data(), 400);
  CHECK(values == std::vector<float>(100, 6.0f));
}

TEST_CASE("a factor of another kind is refused") {
  const auto is_refused = [](DType dtype, std::variant<double, std::int64_t> factor) {
    return !launch_premultiply({dtype, factor, 1, 4096, 4096}, {}).ok();
  };
  CHECK(is_refused(DType::bool_, std::int64_t{1}));
  CHECK(is_refused(DType::int32, 1.0));
  CHECK(is_refused(DType::float32, std::int64_t{1}));
  CHECK(!is_refused(DType::int32, std::int64_t{1}));
  CHECK(!is_refused(DType::float16, 1.0));
  CHECK(!launch_premultiply({DType::float32, 1.0, 1, 0, 4096}, {}).ok());
}

}  // namespace
