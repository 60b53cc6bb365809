// Leaves arrays of one object where their owner has them on a GPU.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "memory/left_in_place.hpp"

namespace muster::detail {

class Connection;

class InPlace {
 public:
  explicit InPlace(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
  InPlace(const InPlace&) = delete;
  InPlace& operator=(const InPlace&) = delete;
  /// The object has been sealed, or there will be none: the segments end with it.
  ~InPlace();

  struct Place {
    ipc::SegmentId segment;
    std::uint64_t offset = 0;
  };
  /// The place of an array that lies there, and that `owner` keeps. What is to be read there must be written already.
  /// Nothing if the driver can't share its memory. Arrays in one allocation share a segment.
  [[nodiscard]] Result<std::optional<Place>> leave(const void* data, Device device, LeftInPlace::Owner owner,
                                                   std::chrono::nanoseconds timeout);

 private:
  struct Left {
    const std::byte* base = nullptr;
    std::uint64_t bytes = 0;
    ipc::SegmentId segment;
  };
  std::shared_ptr<Connection> connection_;
  std::vector<Left> left_;
};

}  // namespace muster::detail
