// Ranks of one group, each with a connection of its own and arrays on a GPU of its choice.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <muster/client.hpp>

#include "client/daemon.hpp"
#include "context.hpp"
#include "core/connection.hpp"

namespace musterd::testing {

/// An array that a rank gives or gets, in memory of the host.
struct DeviceArray {
  muster::DType dtype = muster::DType::float32;
  std::vector<std::byte> bytes;
  [[nodiscard]] std::size_t count() const { return bytes.size() / muster::size_of(dtype); }
  template <class T>
  [[nodiscard]] std::vector<T> as() const {
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};

template <class T>
DeviceArray array_of(muster::DType dtype, const std::vector<T>& values) {
  DeviceArray made{dtype, std::vector<std::byte>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(made.bytes.data(), values.data(), made.bytes.size());
  return made;
}

class Rank {
 public:
  Rank(const muster::test::Daemon& daemon, Context& context, int device)
      : context_(context), device_(device), client_(connect(daemon.socket())) {}

  void join(const std::string& name, int rank, int world_size) {
    muster::JoinOptions options;
    options.rank = rank;
    options.world_size = world_size;
    group = client_.join(name, options).value();
  }
  /// An object with these arrays, which lie on this rank's GPU.
  muster::Ref put(const std::vector<DeviceArray>& arrays) {
    const auto there = muster::Device::cuda(static_cast<std::uint8_t>(device_));
    std::vector<muster::RawBuffer> buffers;
    for (const auto& array : arrays) {
      buffers.push_back(client_.allocate_raw(array.dtype, {static_cast<std::int64_t>(array.count())}, there).value());
      if (array.bytes.empty()) continue;
      context_.use(device_);
      const auto& driver = *context_.driver;
      REQUIRE(driver.memcpy_htod_async(address_of(buffers.back().data()), array.bytes.data(), array.bytes.size(),
                                       nullptr) == gpu::cuda::Status::success);
      REQUIRE(driver.stream_synchronize(nullptr) == gpu::cuda::Status::success);
    }
    return client_.seal_bundle(std::move(buffers), "").value();
  }
  muster::Ref put(const DeviceArray& array) { return put(std::vector{array}); }

  /// The arrays of a result. All must lie on `device`.
  [[nodiscard]] std::vector<DeviceArray> read(const muster::Ref& ref, int device) const {
    std::vector<DeviceArray> arrays;
    const auto views = ref.get().value();
    for (const auto& view : views) {
      CHECK(view.device() == muster::Device::cuda(static_cast<std::uint8_t>(device)));
      DeviceArray array{view.dtype(), std::vector<std::byte>(view.bytes())};
      if (!array.bytes.empty()) {
        context_.use(device);
        const auto& driver = *context_.driver;
        REQUIRE(driver.memcpy_dtoh_async(array.bytes.data(), address_of(view.data()), array.bytes.size(), nullptr) ==
                gpu::cuda::Status::success);
        REQUIRE(driver.stream_synchronize(nullptr) == gpu::cuda::Status::success);
      }
      arrays.push_back(std::move(array));
    }
    return arrays;
  }
  [[nodiscard]] std::vector<DeviceArray> read(const muster::Ref& ref) const { return read(ref, device_); }

  [[nodiscard]] int device() const { return device_; }
  muster::Group group;

 private:
  static gpu::cuda::Address address_of(const void* data) { return reinterpret_cast<gpu::cuda::Address>(data); }
  static muster::Client connect(const std::string& socket) {
    muster::ConnectOptions options;
    options.socket = socket;
    options.start_daemon = false;
    return muster::Client(muster::detail::Connection::open(options).value());
  }

  Context& context_;
  int device_;
  muster::Client client_;
};

}  // namespace musterd::testing
