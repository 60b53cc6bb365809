// The packed form of a manifest:
//   u32 leaves, u32 dims, u32 structure bytes, u32 zero
//   each leaf: u64 offset, u32 segment, u8 dtype, u8 ndim, u16 zero
//   all dims (i64), leaf after leaf; the structure; zeros up to a multiple of 8
#include <muster/ipc/manifest.hpp>

#include <algorithm>
#include <limits>
#include <string>

#include <muster/ipc/packed.hpp>

namespace muster::ipc {

namespace {

constexpr std::size_t header_bytes = 16;
constexpr std::size_t leaf_bytes = 16;
constexpr auto bytes_max = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

/// What C++ and NumPy align an element to: a complex number lies like its parts.
std::uint64_t alignment_of(DType dtype) { return is_complex(dtype) ? size_of(dtype) / 2 : size_of(dtype); }

std::string text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (const auto size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

std::size_t dims_of(const Manifest& manifest) {
  std::size_t dims = 0;
  for (const auto& leaf : manifest.leaves) dims += leaf.ndim;
  return dims;
}

struct PackedLeaf {
  std::uint64_t offset;
  std::uint32_t segment;
  DType dtype;
  std::uint8_t ndim;
};

PackedLeaf take_leaf(Unpacker& in) {
  PackedLeaf leaf{};
  leaf.offset = in.number<std::uint64_t>();
  leaf.segment = in.number<std::uint32_t>();
  leaf.dtype = in.enumerator<DType>(dtype_count, "unknown dtype");
  leaf.ndim = in.number<std::uint8_t>();
  in.require(in.number<std::uint16_t>() == 0, "a reserved field is set");
  return leaf;
}

Error malformed(const char* problem, std::size_t bytes) {
  return {Code::invalid,
          "malformed manifest: " + std::string(problem) + ", " + std::to_string(bytes) + " bytes in all"};
}

}  // namespace

Result<std::uint64_t> element_count(std::span<const std::int64_t> shape, DType dtype) {
  // As in NumPy, the sizes beside a 0 must fit too: strides are products of them.
  std::uint64_t product = 1;
  bool empty = false;
  for (const auto size : shape) {
    if (size < 0) return Error(Code::invalid, "negative size in shape " + text(shape));
    if (size == 0) empty = true;
    else if (__builtin_mul_overflow(product, static_cast<std::uint64_t>(size), &product)) product = 2 * bytes_max;
    if (product > bytes_max / size_of(dtype))
      return Error(Code::invalid, "too large: shape " + text(shape) + " of " + std::string(name(dtype)));
  }
  return empty ? 0 : product;
}

std::uint64_t Manifest::bytes() const {
  // Saturates: leaves may overlap, so that even lawful ones may add up to more than there can be.
  std::uint64_t sum = 0;
  for (const auto& leaf : leaves) sum = std::min(bytes_max, sum + leaf.bytes());
  return sum;
}

Result<void> Manifest::add(SegmentId segment, std::uint64_t offset, DType dtype, std::span<const std::int64_t> shape) {
  if (leaves.size() >= leaves_max)
    return Error(Code::invalid, "too many arrays in one object: more than " + std::to_string(leaves_max));
  if (shape.size() > ndim_max)
    return Error(Code::invalid,
                 "too many dimensions: " + std::to_string(shape.size()) + " of at most " + std::to_string(ndim_max));
  const auto count = element_count(shape, dtype);
  if (!count) return count.error();
  const Leaf leaf{
      segment, offset, dtype, static_cast<std::uint8_t>(shape.size()), static_cast<std::uint32_t>(dims.size()), *count};
  const bool lies_well = segment && offset % alignment_of(dtype) == 0 && offset <= bytes_max - leaf.bytes();
  if (leaf.bytes() != 0 && !lies_well)
    return Error(Code::invalid, "an array can't lie there: segment " + std::to_string(segment.value) + ", offset " +
                                    std::to_string(offset) + ", shape " + text(shape) + " of " +
                                    std::string(name(dtype)));
  dims.insert(dims.end(), shape.begin(), shape.end());
  leaves.push_back(leaf);
  return {};
}

std::size_t encoded_bytes(const Manifest& manifest) {
  return header_bytes + leaf_bytes * manifest.leaves.size() + 8 * dims_of(manifest) +
         (manifest.structure.size() + 7) / 8 * 8;
}

void encode(const Manifest& manifest, std::vector<std::byte>& out) {
  out.reserve(out.size() + encoded_bytes(manifest));
  Packer packer(out);
  packer.number(static_cast<std::uint32_t>(manifest.leaves.size()));
  packer.number(static_cast<std::uint32_t>(dims_of(manifest)));
  packer.number(static_cast<std::uint32_t>(manifest.structure.size()));
  packer.number(std::uint32_t{0});
  for (const auto& leaf : manifest.leaves) {
    packer.number(leaf.offset);
    packer.number(leaf.segment.value);
    packer.number(leaf.dtype);
    packer.number(leaf.ndim);
    packer.number(std::uint16_t{0});
  }
  for (const auto& leaf : manifest.leaves) packer.numbers(manifest.shape(leaf));
  packer.text(manifest.structure);
  packer.pad();
}

Result<Manifest> decode(std::span<const std::byte> bytes) {
  Unpacker in(bytes);
  const auto leaves = in.number<std::uint32_t>();
  const auto dims = in.number<std::uint32_t>();
  const auto structure = in.number<std::uint32_t>();
  in.require(in.number<std::uint32_t>() == 0, "a reserved field is set");
  in.require(leaves <= leaves_max, "too many leaves");
  in.require(structure <= structure_bytes_max, "the structure is too long");
  Unpacker leaf_table(in.bytes(std::uint64_t{leaves} * leaf_bytes));
  const auto sizes = in.numbers<std::int64_t, SmallVector<std::int64_t, 4>>(dims);
  Manifest manifest;
  manifest.structure = in.text(structure);
  in.pad();
  in.finish();
  if (in.problem() != nullptr) return malformed(in.problem(), bytes.size());

  manifest.leaves.reserve(leaves);
  manifest.dims.reserve(dims);
  std::span<const std::int64_t> rest(sizes);
  for (std::uint32_t i = 0; i < leaves; ++i) {
    const auto leaf = take_leaf(leaf_table);
    leaf_table.require(leaf.ndim <= rest.size(), "fewer dims than its leaves need");
    if (leaf_table.problem() != nullptr) return malformed(leaf_table.problem(), bytes.size());
    if (auto added = manifest.add({leaf.segment}, leaf.offset, leaf.dtype, rest.first(leaf.ndim)); !added)
      return added.error();
    rest = rest.subspan(leaf.ndim);
  }
  if (!rest.empty()) return malformed("more dims than its leaves need", bytes.size());
  return manifest;
}

}  // namespace muster::ipc
