// A GPU and its driver: the libcuda.so.1 that the loader finds. All buffers lie in one allocation, of which the host
// has a copy: it goes to the GPU before a launch, and comes back after it. So every byte that a kernel has changed is
// seen.
#define CATCH_CONFIG_EXTERNAL_INTERFACES  // for a listener
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "daemon/gpu/worker/kernels.hpp"
#include "device_memory.hpp"
#include "gpu/cuda.hpp"

namespace musterd::gpu::testing {
namespace {

using cuda::Status;

constexpr std::size_t arena_bytes = 64 << 20;
constexpr std::size_t apart = 64;  ///< between buffers

void must(const cuda::Driver& driver, const char* call, Status status) {
  if (status != Status::success) throw std::runtime_error(std::string(call) + ": " + driver.describe(status));
}

/// GPU 0, with a context and the allocation.
class Arena {
 public:
  static std::unique_ptr<Arena>& place() {
    static std::unique_ptr<Arena> arena;
    return arena;
  }
  static Arena& get() {
    if (!place()) place() = std::make_unique<Arena>();
    return *place();
  }
  Arena() {
    auto opened = open_driver(driver_candidates());
    if (!opened.driver) throw std::runtime_error(driver_error(opened.search)->describe());
    driver_ = std::move(opened.driver);
    cuda::Context context = nullptr;
    must(*driver_, "cuInit", driver_->init(0));
    must(*driver_, "cuDeviceGet", driver_->device_get(&device_, 0));
    must(*driver_, "cuDevicePrimaryCtxRetain", driver_->device_primary_ctx_retain(&context, device_));
    must(*driver_, "cuCtxSetCurrent", driver_->ctx_set_current(context));
    must(*driver_, "cuMemAlloc", driver_->mem_alloc(&memory_, arena_bytes));
    if (auto there = Kernels::there(); !there) throw std::runtime_error(there.error().describe());
    kernels_ = std::make_unique<Kernels>(*driver_, device_);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  /// With its context goes all that is in it.
  ~Arena() { driver_->device_primary_ctx_release(device_); }

  /// Room for a buffer, as an offset. It is given back when no buffer lives any more.
  std::size_t take(DeviceBuffer* buffer, std::size_t shift, std::size_t bytes) {
    if (buffers_.empty()) used_ = apart;
    const std::size_t at = used_ + shift;
    used_ = (at + bytes + 2 * apart) / apart * apart;
    if (used_ > arena_bytes) throw std::runtime_error("the buffers of a test are larger than its arena");
    buffers_.push_back(buffer);
    return at;
  }
  void forget(DeviceBuffer* buffer) { std::erase(buffers_, buffer); }
  [[nodiscard]] std::byte* host(std::size_t offset) { return host_.data() + offset; }
  [[nodiscard]] Address address(std::size_t offset) const { return memory_ + offset; }

  void run(kernels::Launch& launch) {
    // Bytes between buffers have a value, too, which nothing may change.
    before_.assign(host_.begin(), host_.begin() + static_cast<std::ptrdiff_t>(used_));
    must(*driver_, "cuMemcpyHtoD", driver_->memcpy_htod_async(memory_, host_.data(), used_, nullptr));
    std::vector<PinnedTable> tables;
    const auto [call, status] = kernels_->launch(launch, nullptr, tables);
    must(*driver_, call, status);
    must(*driver_, "cuMemcpyDtoH", driver_->memcpy_dtoh_async(host_.data(), memory_, used_, nullptr));
    must(*driver_, "cuStreamSynchronize", driver_->stream_synchronize(nullptr));
  }
  /// Whether nothing has changed but what may be written.
  [[nodiscard]] bool is_whole() {
    for (const DeviceBuffer* buffer : buffers_)
      if (buffer->access() == Access::write && !buffer->bytes().empty())
        std::memcpy(before_.data() + (buffer->address() - memory_), buffer->bytes().data(), buffer->bytes().size());
    return std::memcmp(before_.data(), host_.data(), used_) == 0;
  }

 private:
  std::unique_ptr<cuda::Driver> driver_;
  std::unique_ptr<Kernels> kernels_;
  cuda::Device device_ = 0;
  cuda::Address memory_ = 0;
  std::vector<std::byte> host_ = std::vector<std::byte>(arena_bytes, std::byte{0x5a});
  std::vector<std::byte> before_;
  std::size_t used_ = apart;
  std::vector<DeviceBuffer*> buffers_;
};

/// A driver is not to be called any more when the process ends.
struct AtEnd : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testRunEnded(const Catch::TestRunStats& /*stats*/) override { Arena::place() = nullptr; }
};
CATCH_REGISTER_LISTENER(AtEnd)

}  // namespace

DeviceBuffer::DeviceBuffer(std::size_t bytes, std::size_t shift, Access access)
    : bytes_(bytes), access_(access), memory_(nullptr, [](void*) {}), first_(nullptr) {
  const std::size_t offset = Arena::get().take(this, shift, bytes);
  first_ = Arena::get().host(offset);
  address_ = Arena::get().address(offset);
}

DeviceBuffer::DeviceBuffer(std::span<const std::byte> content, std::size_t shift, Access access)
    : DeviceBuffer(content.size(), shift, access) {
  if (!content.empty()) std::memcpy(first_, content.data(), content.size());
}

DeviceBuffer::~DeviceBuffer() { Arena::get().forget(this); }

void run(kernels::Launch launch) {
  if (launch.is_empty()) return;
  INFO(launch.kernel << ", " << launch.blocks << " x " << launch.rows << " blocks");
  Arena::get().run(launch);
  REQUIRE(Arena::get().is_whole());
}

}  // namespace musterd::gpu::testing
