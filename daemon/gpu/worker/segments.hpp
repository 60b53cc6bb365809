// The memory of a GPU's segments, in its worker. The daemon and clients have descriptors of it, so it outlives this
// process. Of what clients have left in place this process has handles open, each once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include <muster/gpu/device_mapping.hpp>
#include <muster/ipc/fd.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/ipc/in_place.hpp>
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
  /// Opens memory that another process has left in place. Invalid if the handle opens nothing, or other memory than was
  /// said.
  [[nodiscard]] muster::Result<void> open(SegmentId id, const muster::ipc::InPlaceMemory& memory);
  /// No work may use the segment any more.
  void drop(SegmentId id);
  /// As Jobs::lost().
  [[nodiscard]] const std::optional<muster::Error>& lost() const { return lost_; }
  /// The address of some bytes of a segment; the reason why it could not be made, if that is why there are none.
  [[nodiscard]] muster::Result<cuda::Address> address(SegmentId id, std::uint64_t offset, std::uint64_t bytes) const;

 private:
  /// An allocation of another process. Segments may share it: it is closed with the last of them.
  struct Opened {
    explicit Opened(const cuda::Driver& of) : driver(of) {}
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;
    ~Opened();
    const cuda::Driver& driver;
    cuda::Address address = 0;  ///< 0: it is not open
    std::uint64_t bytes = 0;
  };
  struct Segment {
    DeviceMapping mapping;
    std::shared_ptr<Opened> in_place;  ///< null: it is the mapping's
    muster::Result<void> made;
    Segment(const cuda::Driver& driver, std::uint64_t bytes) : mapping(driver, bytes) {}
    [[nodiscard]] cuda::Address address() const { return in_place ? in_place->address : mapping.address(); }
    [[nodiscard]] std::uint64_t bytes() const { return in_place ? in_place->bytes : mapping.bytes(); }
  };
  /// Notes why the segment is not there.
  [[nodiscard]] muster::Error not_made(SegmentId id, const char* step, cuda::Status status);
  [[nodiscard]] static muster::Error not_opened(SegmentId id, const muster::Error& why);
  [[nodiscard]] muster::Error no_segment(SegmentId id, muster::Error why);
  [[nodiscard]] muster::Result<std::shared_ptr<Opened>> open(const muster::ipc::MemoryHandle& handle);

  const cuda::Driver& driver_;
  cuda::Device device_;
  std::map<muster::ipc::MemoryHandle, std::weak_ptr<Opened>> opened_;
  std::map<SegmentId, Segment> segments_;
  std::optional<muster::Error> lost_;
};

}  // namespace musterd::gpu
