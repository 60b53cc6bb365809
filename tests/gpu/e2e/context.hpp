// A test's own contexts on GPUs: on GPU 0, and on others once they are used.
#pragma once

#include <catch2/catch.hpp>

#include <map>
#include <memory>
#include <stdexcept>

#include "gpu/cuda.hpp"

namespace musterd::testing {

struct Context {
  Context() {
    REQUIRE(driver->init(0) == gpu::cuda::Status::success);
    use(0);
  }
  ~Context() {
    for (const auto& [device, context] : contexts_) driver->device_primary_ctx_release(device);
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Makes the context of this GPU the current one.
  void use(gpu::cuda::Device device) {
    gpu::cuda::Context& context = contexts_[device];
    if (!context) REQUIRE(driver->device_primary_ctx_retain(&context, device) == gpu::cuda::Status::success);
    REQUIRE(driver->ctx_set_current(context) == gpu::cuda::Status::success);
  }

  std::unique_ptr<gpu::cuda::Driver> driver = open();

 private:
  static std::unique_ptr<gpu::cuda::Driver> open() {
    auto opened = gpu::open_driver(gpu::driver_candidates());
    if (!opened.driver) throw std::runtime_error("there is no driver");
    return std::move(opened.driver);
  }
  std::map<gpu::cuda::Device, gpu::cuda::Context> contexts_;
};

}  // namespace musterd::testing
