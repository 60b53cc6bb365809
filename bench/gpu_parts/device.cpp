#include "device.hpp"

#include <unistd.h>

#include <fmt/format.h>

namespace bench {

namespace {

/// The kernel's part of the driver: with it there is a GPU, whether or not this process can use it.
bool has_kernel_driver() { return ::access("/dev/nvidiactl", F_OK) == 0; }

[[noreturn]] void give_up(const muster::Error& why) {
  if (has_kernel_driver()) throw std::runtime_error("there is a GPU, and it can't be used: " + why.describe());
  throw NoGpu(why.message());
}

}  // namespace

Device::Device(cuda::Device number) : number_(number) {
  auto opened = musterd::gpu::open_driver(musterd::gpu::driver_candidates());
  if (!opened.driver) give_up(*musterd::gpu::driver_error(opened.search));
  driver_ = std::move(opened.driver);
  if (const auto status = driver_->init(0); status != cuda::Status::success)
    give_up(musterd::gpu::init_error(*driver_, status));
  cuda::Device device = 0;
  must("cuDeviceGet", driver_->device_get(&device, number));
  char name[256] = {};
  must("cuDeviceGetName", driver_->device_get_name(name, sizeof name - 1, device));
  name_ = name;
  cuda::Context context = nullptr;
  must("cuDevicePrimaryCtxRetain", driver_->device_primary_ctx_retain(&context, device));
  must("cuCtxSetCurrent", driver_->ctx_set_current(context));
  must("cuStreamCreate", driver_->stream_create(&stream_, cuda::stream_non_blocking));
  const auto properties = cuda::shareable(device);
  std::size_t bytes = 0;
  must("cuMemGetAllocationGranularity",
       driver_->mem_get_allocation_granularity(&bytes, &properties, cuda::Granularity::minimum));
  granularity_ = bytes;
}

Device::~Device() {
  driver_->stream_destroy(stream_);
  driver_->device_primary_ctx_release(number());
}

std::string Device::text() const {
  return fmt::format("{}, CUDA {}", name_, musterd::gpu::cuda_version_text(driver_->version));
}

int Device::count() const {
  int count = 0;
  must("cuDeviceGetCount", driver_->device_get_count(&count));
  return count;
}

std::uint64_t Device::free_bytes() const {
  std::size_t unused = 0;
  std::size_t total = 0;
  must("cuMemGetInfo", driver_->mem_get_info(&unused, &total));
  return unused;
}

void Device::must(const char* call, cuda::Status status) const {
  if (status != cuda::Status::success)
    throw std::runtime_error(fmt::format("{} failed: {}", call, driver_->describe(status)));
}

std::unique_ptr<musterd::gpu::DeviceMapping> Device::memory(std::uint64_t bytes) const {
  const std::uint64_t whole = (bytes + granularity_ - 1) / granularity_ * granularity_;
  auto made = std::make_unique<musterd::gpu::DeviceMapping>(*driver_, whole);
  must("cuMemCreate", made->make(number()));
  must("to map memory", made->map(number()));
  return made;
}

}  // namespace bench
