// A Buffer is writable memory inside the store; seal() makes it an immutable object without a copy.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <muster/device.hpp>
#include <muster/options.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>
#include <muster/types.hpp>

namespace muster {

namespace detail {
struct Lease;  // client/ops/lease.hpp
}

/// An untyped buffer. Bundles are made of these. On a GPU, addresses are the GPU's, and the host must not use them.
class RawBuffer {
 public:
  RawBuffer() = default;
  RawBuffer(std::shared_ptr<detail::Lease> lease, void* data, DType dtype, Shape shape)
      : lease_(std::move(lease)), data_(data), dtype_(dtype), shape_(std::move(shape)) {}

  /// Null for an empty buffer: one that was made without memory, moved from, or sealed.
  [[nodiscard]] void* data() const { return lease_ ? data_ : nullptr; }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] Device device() const;
  [[nodiscard]] const std::shared_ptr<detail::Lease>& lease() const { return lease_; }
  /// The buffer must not be written after this. On a GPU, waits first until all work that this process has given to it
  /// is over.
  [[nodiscard]] Result<Ref> seal() &&;
  /// The same for a buffer on a GPU that only this stream's work has written. Timeout if that is not over in time, by
  /// default in 30 s.
  [[nodiscard]] Result<Ref> seal(Stream stream, Timeout timeout = {}) &&;

 private:
  [[nodiscard]] Result<Ref> seal_written() &&;
  std::shared_ptr<detail::Lease> lease_;
  void* data_ = nullptr;
  DType dtype_ = DType::float32;
  Shape shape_;
};

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(RawBuffer raw) : raw_(std::move(raw)) {}

  /// On a GPU: an address of the GPU, and how many elements there are.
  [[nodiscard]] std::span<T> span() const {
    std::size_t count = raw_.data() ? 1 : 0;
    for (auto size : raw_.shape()) count *= static_cast<std::size_t>(size);
    return {static_cast<T*>(raw_.data()), count};
  }
  [[nodiscard]] const Shape& shape() const { return raw_.shape(); }
  [[nodiscard]] Device device() const { return raw_.device(); }
  [[nodiscard]] Result<Ref> seal() && { return std::move(raw_).seal(); }
  [[nodiscard]] Result<Ref> seal(Stream stream, Timeout timeout = {}) && {
    return std::move(raw_).seal(stream, timeout);
  }

 private:
  RawBuffer raw_;
};

}  // namespace muster
