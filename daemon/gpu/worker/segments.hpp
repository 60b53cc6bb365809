// The memory of a GPU's segments, in its worker. The daemon and clients have descriptors of it, so it outlives this
// process.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include <muster/gpu/device_mapping.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "gpu/cuda.hpp"

namespace musterd::gpu {

using muster::gpu::DeviceMapping;
using muster::ipc::SegmentId;

class DeviceSegments {
 public:
  DeviceSegments(const cuda::Driver& driver, cuda::Device device) : driver_(driver), device_(device) {}

  /// Makes a segment whose bytes are all zero, and returns its descriptor. `bytes` is a multiple of the granularity.
  [[nodiscard]] muster::Result<muster::ipc::Fd> make(SegmentId id, std::uint64_t bytes);
  [[nodiscard]] muster::Result<void> adopt(SegmentId id, std::uint64_t bytes, const muster::ipc::Fd& fd);
  /// No work may use the segment any more.
  void drop(SegmentId id);
  /// As Jobs::lost().
  [[nodiscard]] const std::optional<muster::Error>& lost() const { return lost_; }
  /// The address of some bytes of a segment; the reason why it could not be made, if that is why there are none.
  [[nodiscard]] muster::Result<cuda::Address> address(SegmentId id, std::uint64_t offset, std::uint64_t bytes) const;

 private:
  struct Segment {
    DeviceMapping mapping;
    muster::Result<void> made;
    Segment(const cuda::Driver& driver, std::uint64_t bytes) : mapping(driver, bytes) {}
  };
  /// Notes why the segment is not there.
  [[nodiscard]] muster::Error not_made(SegmentId id, const char* step, cuda::Status status);

  const cuda::Driver& driver_;
  cuda::Device device_;
  std::map<SegmentId, Segment> segments_;
  std::optional<muster::Error> lost_;
};

}  // namespace musterd::gpu
