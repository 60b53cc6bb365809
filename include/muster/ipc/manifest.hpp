// A manifest says where an object's arrays lie and what they are. A seal carries it to the daemon, and a reader gets it
// back. It has one packed form for rings, frames and pickles, and decoding checks everything.
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
/// The most leaves of an object that a client makes. Finding the parts of an object with so many takes about 4 ms in
/// the worst order.
inline constexpr std::size_t object_leaves_max = 1 << 14;
inline constexpr std::size_t ndim_max = 64;
/// The most bytes of the encoded description of an object that a client makes: its arrays, shapes, structure and guise.
/// Every reader of the object is sent all of it, and everybody else waits meanwhile.
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

/// Who made an object. A seal may say that several users did, as it copies what they made. That only the daemon's own
/// user did is what the daemon finds: a part of an object has the makers of the whole.
enum class Makers : std::uint32_t {
  one_user,       ///< processes of the user who owns it
  several_users,  ///< it comes from an open group, so nothing in it may be trusted
};

struct Manifest {
  Makers makers = Makers::one_user;
  SmallVector<Leaf, 1> leaves;
  SmallVector<std::int64_t, 4> dims;
  /// How the leaves nest: see structure.hpp. The daemon reads it for messages only. Empty for a plain array.
  std::string structure;
  /// What else the maker's value had, and ranks need not agree on: see guise.hpp. Usually empty.
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

/// The error for an object with too many arrays.
[[nodiscard]] Error too_many_leaves(std::size_t count);

[[nodiscard]] std::size_t encoded_bytes(const Manifest& manifest);
/// Appends the packed form to `out`, padded to 8 bytes.
void encode(const Manifest& manifest, std::vector<std::byte>& out);
/// Checks everything: counts, sizes, dtypes, devices, dims, the alignment of offsets, and that all of `bytes` is used.
[[nodiscard]] Result<Manifest> decode(std::span<const std::byte> bytes);

}  // namespace muster::ipc
