// A Ref names an object in the store and keeps it alive. Copying a Ref is cheap; the last copy in the process
// gives the hold back. serialize() makes about 100 bytes that any process of the same user can turn back into a Ref.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <muster/device.hpp>
#include <muster/elements.hpp>
#include <muster/options.hpp>
#include <muster/result.hpp>
#include <muster/types.hpp>

namespace muster {

namespace detail {
struct Hold;     // client/memory/hold.hpp
struct Opening;  // client/memory/opening.hpp
}  // namespace detail

/// One array of an object, read-only, mapped from the store. Keeps its object alive. On a GPU, its address is the
/// GPU's, and the host must not use it; when the last view of an object there goes, this process's work on that GPU is
/// waited for.
class ArrayView {
 public:
  ArrayView() = default;
  ArrayView(std::shared_ptr<const detail::Opening> opening, const void* data, DType dtype, Shape shape, Device device)
      : opening_(std::move(opening)), data_(data), dtype_(dtype), device_(device), shape_(std::move(shape)) {}

  /// Null for an empty view: one that was made without an array, or moved from.
  [[nodiscard]] const void* data() const { return opening_ ? data_ : nullptr; }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] Device device() const { return device_; }
  [[nodiscard]] const Shape& shape() const { return shape_; }  ///< elements along each axis, C order
  [[nodiscard]] std::size_t count() const {
    std::size_t product = opening_ ? 1 : 0;
    for (auto size : shape_) product *= static_cast<std::size_t>(size);
    return product;
  }
  [[nodiscard]] std::size_t bytes() const { return count() * size_of(dtype_); }
  /// The elements. Empty if they can't be read as T, see reads_as().
  template <class T>
  [[nodiscard]] std::span<const T> span() const {
    if (!reads_as<T>(dtype_)) return {};
    return {static_cast<const T*>(data()), bytes() / sizeof(T)};
  }

 private:
  std::shared_ptr<const detail::Opening> opening_;
  const void* data_ = nullptr;
  DType dtype_ = DType::float32;
  Device device_;
  Shape shape_;
};

class Ref {
 public:
  Ref() = default;
  explicit Ref(std::shared_ptr<const detail::Hold> hold) : hold_(std::move(hold)) {}

  [[nodiscard]] bool valid() const { return hold_ != nullptr; }
  [[nodiscard]] std::size_t leaves() const;
  [[nodiscard]] std::uint64_t nbytes() const;
  /// How the leaves nest, in the caller's own notation; empty for a plain array.
  [[nodiscard]] std::string_view structure() const;
  [[nodiscard]] DType dtype(std::size_t leaf = 0) const;
  [[nodiscard]] Shape shape(std::size_t leaf = 0) const;
  [[nodiscard]] Device device(std::size_t leaf = 0) const;

  /// Zero-copy, read-only views of all leaves. ObjectLost if the daemon is gone. The daemon may have to be asked where
  /// the leaves lie; Timeout if it does not answer in this time, by default 30 s.
  [[nodiscard]] Result<std::vector<ArrayView>> get(Timeout timeout = {}) const;
  /// The same object on a device: this one if all of it is there already, else a copy, made once, now. Waits while the
  /// store is full there, by default up to 30 s; then OutOfMemory.
  [[nodiscard]] Result<Ref> to(Device device, Timeout timeout = {}) const;
  /// The bytes that Client::deserialize() takes, in this process or another, any number of times.
  [[nodiscard]] Result<std::string> serialize() const;
  /// The same for an object that something else keeps, for instance a token: these bytes do not keep it for a while.
  [[nodiscard]] Result<std::string> serialize_kept() const;
  /// Keeps the object until the token ends, however long this Ref lives. Invalid if no such token is open: what it
  /// stood for has ended.
  [[nodiscard]] Result<void> keep_for(std::string_view token) const;
  /// Drops this Ref's hold now; others keep theirs.
  void free() { hold_.reset(); }

  [[nodiscard]] const std::shared_ptr<const detail::Hold>& hold() const { return hold_; }

 private:
  std::shared_ptr<const detail::Hold> hold_;
};

}  // namespace muster
