// A manifest says where an object's arrays lie and what they are. It is what a seal carries to the daemon
// and what a reader gets back: one packed form for rings, frames and pickles, decoded with every check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>
#include <muster/types.hpp>

namespace muster::ipc {

inline constexpr std::size_t leaves_max = 1 << 17;
/// Of one object that a client makes. To find the parts of so many takes some 4 ms in the worst order.
inline constexpr std::size_t object_leaves_max = 1 << 14;
inline constexpr std::size_t ndim_max = 64;
/// Of an object that a client makes, encoded: its arrays, shapes, structure and guise. Who looks at the object is
/// sent all of it, and everybody else waits meanwhile.
inline constexpr std::size_t description_bytes_max = 1 << 20;

/// One dense array in C order.
struct Leaf {
  SegmentId segment;         ///< 0 only for arrays without bytes
  std::uint64_t offset = 0;  ///< bytes from the segment's start
  DType dtype = DType::float32;
  std::uint8_t ndim = 0;
  Device device;                ///< that of its segment
  std::uint32_t first_dim = 0;  ///< its shape is Manifest::dims[first_dim, first_dim + ndim)
  std::uint64_t count = 1;      ///< elements: the product of the shape
  [[nodiscard]] std::uint64_t bytes() const { return count * size_of(dtype); }
};

/// Who had a hand in an object. The daemon alone says so, whatever a seal claims.
enum class Makers : std::uint32_t {
  one_user,       ///< processes of the user whose it is
  several_users,  ///< it comes from an open group: nothing in it may be believed
};

struct Manifest {
  Makers makers = Makers::one_user;
  SmallVector<Leaf, 1> leaves;
  SmallVector<std::int64_t, 4> dims;
  /// How the leaves nest: see structure.hpp. To the daemon it is opaque but for messages. Empty for a plain array.
  std::string structure;
  /// What else its maker's value had, on which ranks need not agree. Mostly empty.
  std::string guise;

  [[nodiscard]] std::span<const std::int64_t> shape(const Leaf& leaf) const {
    return std::span(dims).subspan(leaf.first_dim, leaf.ndim);
  }
  [[nodiscard]] std::uint64_t bytes() const;
  /// Appends a leaf; the shape's sizes must not be negative and their product must fit.
  [[nodiscard]] Result<void> add(SegmentId segment, std::uint64_t offset, DType dtype,
                                 std::span<const std::int64_t> shape, Device device = Device::cpu());
};

/// Elements in `shape`, or Invalid if a size is negative or the bytes don't fit in 63 bits.
[[nodiscard]] Result<std::uint64_t> element_count(std::span<const std::int64_t> shape, DType dtype);

/// What an object of so many arrays is refused with.
[[nodiscard]] Error too_many_leaves(std::size_t count);

[[nodiscard]] std::size_t encoded_bytes(const Manifest& manifest);
/// Appends the packed form to `out`, padded to 8 bytes.
void encode(const Manifest& manifest, std::vector<std::byte>& out);
/// Checks everything: counts, sizes, dtypes, devices, dims, alignment of offsets, that all of `bytes` is used.
[[nodiscard]] Result<Manifest> decode(std::span<const std::byte> bytes);

}  // namespace muster::ipc
