// The packed form of a manifest:
//   u32 leaves, u32 dims, u32 structure bytes, u32 guise bytes, u32 makers, u32 zero
//   each leaf: u64 offset, u32 segment, u8 dtype, u8 ndim, u8 kind of device, u8 index of device
//   all dims (i64), leaf after leaf; the structure; the guise; zeros up to a multiple of 8
#include <muster/ipc/manifest.hpp>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <muster/ipc/packed.hpp>

namespace muster::ipc {

namespace {

struct PackedHeader {
  std::uint32_t leaves;
  std::uint32_t dims;
  std::uint32_t structure_bytes;
  std::uint32_t guise_bytes;
  std::uint32_t makers;
  std::uint32_t zero;
};

struct PackedLeaf {
  std::uint64_t offset;
  std::uint32_t segment;
  std::uint8_t dtype;
  std::uint8_t ndim;
  std::uint8_t device_kind;
  std::uint8_t device_index;
};

constexpr std::size_t makers_count = 2;
constexpr auto bytes_max = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

/// The alignment of an element in C++ and NumPy. A complex number is aligned like its parts.
std::uint64_t alignment_of(DType dtype) { return is_complex(dtype) ? size_of(dtype) / 2 : size_of(dtype); }

std::string text(std::span<const std::int64_t> shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

std::size_t dims_of(const Manifest& manifest) {
  std::size_t dims = 0;
  for (const auto& leaf : manifest.leaves) dims += leaf.ndim;
  return dims;
}

Error malformed(const char* problem, std::size_t bytes) {
  return {Code::invalid, fmt::format("the manifest is malformed: {}, {} bytes in all", problem, bytes)};
}

}  // namespace

Result<std::uint64_t> element_count(std::span<const std::int64_t> shape, DType dtype) {
  // As in NumPy, the sizes beside a 0 must fit, too, as strides are products of them.
  std::uint64_t product = 1;
  bool empty = false;
  for (const auto size : shape) {
    if (size < 0) return Error(Code::invalid, fmt::format("shape {} has a negative size", text(shape)));
    if (size == 0) empty = true;
    else if (__builtin_mul_overflow(product, static_cast<std::uint64_t>(size), &product)) product = 2 * bytes_max;
    if (product > bytes_max / size_of(dtype))
      return Error(Code::invalid, fmt::format("an array of shape {} of {} is too large", text(shape), name(dtype)));
  }
  return empty ? 0 : product;
}

Error too_many_leaves(std::size_t count) {
  return {Code::invalid, fmt::format("an object can't have {} arrays", count),
          fmt::format("use fewer and larger arrays: at most {} in one object", object_leaves_max)};
}

std::uint64_t Manifest::bytes() const {
  // The sum saturates: leaves may overlap, so even valid ones may add up to more than fits.
  std::uint64_t sum = 0;
  for (const auto& leaf : leaves) sum = std::min(bytes_max, sum + leaf.bytes());
  return sum;
}

namespace {

/// The leaf with this shape, if it can lie at this place. Its dims begin at `first_dim`.
Result<Leaf> lay(SegmentId segment, std::uint64_t offset, DType dtype, std::span<const std::int64_t> shape,
                 std::size_t first_dim, Device device) {
  if (shape.size() > ndim_max)
    return Error(Code::invalid, fmt::format("an array can't have {} dimensions, at most {}", shape.size(), ndim_max));
  const auto count = element_count(shape, dtype);
  if (!count) return count.error();
  const Leaf leaf{
      segment, offset, dtype, static_cast<std::uint8_t>(shape.size()), device, static_cast<std::uint32_t>(first_dim),
      *count};
  const bool lies_well = segment && offset % alignment_of(dtype) == 0 && offset <= bytes_max - leaf.bytes();
  if (leaf.bytes() != 0 && !lies_well)
    return Error(Code::invalid, fmt::format("an array can't lie there: segment {}, offset {}, shape {} of {}",
                                            segment.value, offset, text(shape), name(dtype)));
  return leaf;
}

}  // namespace

Result<void> Manifest::add(SegmentId segment, std::uint64_t offset, DType dtype, std::span<const std::int64_t> shape,
                           Device device) {
  if (leaves.size() >= leaves_max) return too_many_leaves(leaves.size() + 1);
  const auto leaf = lay(segment, offset, dtype, shape, dims.size(), device);
  if (!leaf) return leaf.error();
  dims.insert(dims.end(), shape.begin(), shape.end());
  leaves.push_back(*leaf);
  return {};
}

std::size_t encoded_bytes(const Manifest& manifest) {
  return sizeof(PackedHeader) + sizeof(PackedLeaf) * manifest.leaves.size() + 8 * dims_of(manifest) +
         (manifest.structure.size() + manifest.guise.size() + 7) / 8 * 8;
}

void encode(const Manifest& manifest, std::vector<std::byte>& out) {
  out.reserve(out.size() + encoded_bytes(manifest));
  Packer packer(out);
  packer.fixed(
      PackedHeader{static_cast<std::uint32_t>(manifest.leaves.size()), static_cast<std::uint32_t>(dims_of(manifest)),
                   static_cast<std::uint32_t>(manifest.structure.size()),
                   static_cast<std::uint32_t>(manifest.guise.size()), static_cast<std::uint32_t>(manifest.makers), 0});
  for (const auto& leaf : manifest.leaves)
    packer.fixed(PackedLeaf{leaf.offset, leaf.segment.value, static_cast<std::uint8_t>(leaf.dtype), leaf.ndim,
                            static_cast<std::uint8_t>(leaf.device.kind), leaf.device.index});
  for (const auto& leaf : manifest.leaves) packer.numbers(manifest.shape(leaf));
  packer.text(manifest.structure);
  packer.text(manifest.guise);
  packer.pad();
}

namespace {

/// Fills in the manifest. Returns an error if the bytes are wrong.
std::optional<Error> take_manifest(std::span<const std::byte> bytes, Manifest& manifest) {
  Unpacker in(bytes);
  const auto header = in.fixed<PackedHeader>();
  manifest.makers = in.enumerator<Makers>(header.makers, makers_count, "its makers are unknown");
  in.require(header.leaves <= leaves_max, "it has too many leaves");
  in.require(header.structure_bytes <= description_bytes_max, "the structure is too long");
  in.require(header.guise_bytes <= description_bytes_max, "the guise is too long");
  in.require(header.zero == 0, "a reserved field is set");
  Unpacker table(in.bytes(std::uint64_t{header.leaves} * sizeof(PackedLeaf)));
  manifest.dims = in.numbers<std::int64_t, decltype(manifest.dims)>(header.dims);
  manifest.structure = in.text(header.structure_bytes);
  manifest.guise = in.text(header.guise_bytes);
  in.pad();
  in.finish();
  if (in.problem() != nullptr) return malformed(in.problem(), bytes.size());

  manifest.leaves.reserve(header.leaves);
  const std::span<const std::int64_t> dims(manifest.dims);
  std::size_t used = 0;
  for (std::uint32_t i = 0; i < header.leaves; ++i) {
    const auto packed = table.fixed<PackedLeaf>();
    const auto dtype = table.enumerator<DType>(packed.dtype, dtype_count, "a dtype is unknown");
    const auto device = Device::of(packed.device_kind, packed.device_index);
    table.require(device.has_value(), "a device is unknown");
    table.require(packed.ndim <= dims.size() - used, "it has fewer dims than its leaves need");
    if (table.problem() != nullptr) return malformed(table.problem(), bytes.size());
    const auto leaf = lay({packed.segment}, packed.offset, dtype, dims.subspan(used, packed.ndim), used, *device);
    if (!leaf) return leaf.error();
    manifest.leaves.push_back(*leaf);
    used += packed.ndim;
  }
  if (used != dims.size()) return malformed("it has more dims than its leaves need", bytes.size());
  return std::nullopt;
}

}  // namespace

Result<Manifest> decode(std::span<const std::byte> bytes) {
  // The manifest is filled in where it stays: it has room for a leaf inside, so it is not cheap to move.
  Result<Manifest> decoded(std::in_place);
  if (auto error = take_manifest(bytes, *decoded)) decoded = std::move(*error);
  return decoded;
}

}  // namespace muster::ipc
