// What a manifest may contain. Its packed form survives every truncation and mutation: decoding gives a typed error or
// a valid manifest.
#include <cstring>
#include <limits>
#include <vector>

#include <catch2/catch.hpp>
#include <muster/ipc/manifest.hpp>

#include "manifests.hpp"
#include "random.hpp"

namespace muster::ipc {
namespace {

using test::Random, test::random_manifest, test::same;

constexpr auto int64_max = std::numeric_limits<std::int64_t>::max();

std::vector<std::byte> encoded(const Manifest& manifest) {
  std::vector<std::byte> bytes;
  encode(manifest, bytes);
  return bytes;
}

/// Overwrites the number at `offset`.
template <class T>
std::vector<std::byte> with(std::vector<std::byte> bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

/// Checks that a decoded manifest keeps the promises that its users rely on.
void check_lawful(const Manifest& manifest) {
  std::size_t dims = 0;
  for (const auto& leaf : manifest.leaves) {
    REQUIRE(static_cast<std::size_t>(leaf.dtype) < dtype_count);
    REQUIRE(Device::of(static_cast<std::uint8_t>(leaf.device.kind), leaf.device.index) == leaf.device);
    REQUIRE(leaf.first_dim == dims);
    dims += leaf.ndim;
    REQUIRE(dims <= manifest.dims.size());
    const auto count = element_count(manifest.shape(leaf), leaf.dtype);
    REQUIRE(count);
    REQUIRE(*count == leaf.count);
    if (leaf.bytes() != 0) REQUIRE(leaf.segment);
    REQUIRE(leaf.bytes() <= static_cast<std::uint64_t>(int64_max));
    if (leaf.bytes() != 0) REQUIRE(leaf.offset + leaf.bytes() <= static_cast<std::uint64_t>(int64_max));
  }
}

TEST_CASE("element_count multiplies sizes and refuses impossible ones") {
  const auto count = [](std::vector<std::int64_t> shape, DType dtype) { return element_count(shape, dtype); };
  REQUIRE(*count({}, DType::float64) == 1);
  REQUIRE(*count({3, 4, 5}, DType::int8) == 60);
  REQUIRE(*count({3, 0, 5}, DType::int8) == 0);
  REQUIRE(*count({int64_max}, DType::int8) == static_cast<std::uint64_t>(int64_max));
  REQUIRE(count({int64_max}, DType::int16).error().code() == Code::invalid);
  REQUIRE(count({3, -1}, DType::int8).error().message() == "shape (3, -1) has a negative size");
  REQUIRE(count({0, -1}, DType::int8).error().code() == Code::invalid);
  REQUIRE(count({1LL << 32, 1LL << 32}, DType::int8).error().code() == Code::invalid);
  REQUIRE(count({1LL << 32, 1LL << 32, 1LL << 32, 0}, DType::int8).error().code() == Code::invalid);
  REQUIRE(count({1LL << 60}, DType::complex128).error().message() ==
          "an array of shape (1152921504606846976) of complex128 is too large");
}

TEST_CASE("a leaf must lie where its dtype can") {
  const std::vector<std::int64_t> shape{4};
  const auto add = [&](std::uint32_t segment, std::uint64_t offset, DType dtype) {
    return Manifest{}.add({segment}, offset, dtype, shape).ok();
  };
  REQUIRE(add(1, 64, DType::float64));
  REQUIRE(add(1, 8, DType::complex128));  // aligned like its parts
  REQUIRE_FALSE(add(1, 4, DType::complex128));
  REQUIRE_FALSE(add(1, 4, DType::float64));
  REQUIRE_FALSE(add(1, 1, DType::float16));
  REQUIRE(add(1, 1, DType::bool_));
  REQUIRE_FALSE(add(0, 64, DType::float64));
  REQUIRE_FALSE(add(1, std::numeric_limits<std::uint64_t>::max() - 7, DType::float64));
  REQUIRE_FALSE(add(1, int64_max - 7 - 8, DType::float64));
  const std::vector<std::int64_t> empty{4, 0};
  REQUIRE(Manifest{}.add({0}, 0, DType::float64, empty));
  const std::vector<std::int64_t> deep(ndim_max + 1, 1);
  REQUIRE_FALSE(Manifest{}.add({1}, 0, DType::float64, deep));
}

TEST_CASE("the byte count of a manifest never overflows, whatever its leaves claim") {
  Manifest manifest;
  const std::vector<std::int64_t> shape{int64_max - 64};
  for (int i = 0; i < 4; ++i) REQUIRE(manifest.add({1}, 0, DType::int8, shape));
  REQUIRE(manifest.bytes() == static_cast<std::uint64_t>(int64_max));
}

TEST_CASE("an encoded manifest decodes to the same manifest") {
  const auto seed = GENERATE(range(0u, 500u));
  CAPTURE(seed);
  Random random(seed);
  const auto manifest = random_manifest(random);
  std::vector<std::byte> bytes = random.bytes(8 * random.between(0, 3));
  const auto before = bytes.size();
  encode(manifest, bytes);
  REQUIRE(bytes.size() - before == encoded_bytes(manifest));
  REQUIRE(bytes.size() % 8 == 0);
  const auto decoded = decode(std::span(bytes).subspan(before));
  REQUIRE(decoded);
  REQUIRE(same(manifest, *decoded));
  check_lawful(*decoded);
}

TEST_CASE("a manifest cut anywhere, or with a tail, is Invalid") {
  Random random(1);
  auto bytes = encoded(random_manifest(random, 3));
  for (std::size_t length = 0; length < bytes.size(); ++length)
    REQUIRE(decode(std::span(bytes).first(length)).error().code() == Code::invalid);
  bytes.resize(bytes.size() + 8);
  REQUIRE_FALSE(decode(bytes));
}

TEST_CASE("every byte changed, and random bytes, give an error or a lawful manifest") {
  const auto seed = GENERATE(range(0u, 30u));
  CAPTURE(seed);
  Random random(seed);
  const auto bytes = encoded(random_manifest(random));
  for (std::size_t i = 0; i < bytes.size(); ++i)
    for (const auto change : {0x01, 0x10, 0x80, 0xff}) {
      auto changed = bytes;
      changed[i] ^= static_cast<std::byte>(change);
      if (const auto decoded = decode(changed)) check_lawful(*decoded);
    }
  for (int i = 0; i < 100; ++i)
    if (const auto decoded = decode(random.bytes(random.between(0, 200)))) check_lawful(*decoded);
}

TEST_CASE("each field of a manifest is checked") {
  const auto bytes = encoded(test::plain_manifest(10));
  REQUIRE(decode(bytes));
  const auto refuses = [](const std::vector<std::byte>& changed) { return !decode(changed).ok(); };
  REQUIRE(refuses(with(bytes, 0, std::uint32_t{0xffffffff})));          // leaves
  REQUIRE(refuses(with(bytes, 4, std::uint32_t{2})));                   // dims
  REQUIRE(refuses(with(bytes, 8, std::uint32_t{0xfffffff8})));          // structure
  REQUIRE(refuses(with(bytes, 12, std::uint32_t{0xfffffff8})));         // guise
  REQUIRE(refuses(with(bytes, 16, std::uint32_t{2})));                  // unknown makers
  REQUIRE(refuses(with(bytes, 20, std::uint32_t{1})));                  // reserved
  REQUIRE(refuses(with(bytes, 24, std::uint64_t{4098})));               // offset
  REQUIRE(refuses(with(bytes, 32, std::uint32_t{0})));                  // segment
  REQUIRE(refuses(with(bytes, 36, std::uint8_t{dtype_count})));         // dtype
  REQUIRE(refuses(with(bytes, 37, std::uint8_t{0})));                   // ndim: a dim too many
  REQUIRE(refuses(with(bytes, 37, std::uint8_t{2})));                   // ndim: a dim too few
  REQUIRE(refuses(with(bytes, 38, std::uint8_t{3})));                   // kind of device
  REQUIRE(refuses(with(bytes, 39, std::uint8_t{1})));                   // index of device: there is one host
  REQUIRE(refuses(with(bytes, 38, std::uint16_t{gpus_max << 8 | 2})));  // index of a GPU
  REQUIRE(refuses(with(bytes, 40, std::int64_t{-1})));                  // a size
  REQUIRE(refuses(with(bytes, 40, int64_max)));                         // a size
}

TEST_CASE("a bundle may have as many leaves as its limit and no more") {
  Manifest manifest;
  for (std::size_t i = 0; i < leaves_max; ++i) REQUIRE(manifest.add({1}, i * 64, DType::float32, {}).ok());
  REQUIRE(manifest.add({1}, 0, DType::float32, {}).error().code() == Code::invalid);
  const auto decoded = decode(encoded(manifest));
  REQUIRE(decoded);
  REQUIRE(decoded->leaves.size() == leaves_max);
}

}  // namespace
}  // namespace muster::ipc
