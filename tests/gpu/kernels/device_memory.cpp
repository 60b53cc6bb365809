// The host instead of a GPU: every access is translated, so what a kernel may not touch is seen. Buffers end where
// their memory ends, so ASan sees what is read beyond them.
#include "device_memory.hpp"

#include <dlfcn.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <string>

#include "host_kernels.hpp"

namespace musterd::gpu::testing {
namespace {

constexpr Address apart = Address{1} << 60;

std::vector<const DeviceBuffer*>& buffers() {
  static std::vector<const DeviceBuffer*> all;
  return all;
}

/// Where these bytes lie on the host, if they are in this buffer and may be accessed so.
void* find(const DeviceBuffer& buffer, Address address, std::size_t bytes, Access access) {
  const Address offset = address - buffer.address();
  const bool is_inside = offset <= buffer.bytes().size() && bytes <= buffer.bytes().size() - offset;
  const bool is_allowed = access == Access::read || buffer.access() == Access::write;
  return is_inside && is_allowed ? reinterpret_cast<void*>(address - apart) : nullptr;
}

int refused = 0;  ///< translations

std::byte* allocate(std::size_t bytes) {
  void* memory = nullptr;
  if (::posix_memalign(&memory, 64, bytes + 1) != 0) throw std::bad_alloc();
  return static_cast<std::byte*>(memory);
}

void* find_symbol(const std::string& name) {
  static void* const library = ::dlopen(HOST_KERNELS, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) FAIL(::dlerror());
  return ::dlsym(library, name.c_str());
}

}  // namespace

DeviceBuffer::DeviceBuffer(std::size_t bytes, std::size_t shift, Access access)
    : bytes_(bytes),
      access_(access),
      memory_(allocate(shift + bytes), std::free),
      first_(memory_.get() + shift),
      address_(reinterpret_cast<Address>(first_) + apart) {
  buffers().push_back(this);
}

DeviceBuffer::DeviceBuffer(std::span<const std::byte> content, std::size_t shift, Access access)
    : DeviceBuffer(content.size(), shift, access) {
  if (!content.empty()) std::memcpy(first_, content.data(), content.size());
}

DeviceBuffer::~DeviceBuffer() { std::erase(buffers(), this); }

void run(kernels::Launch launch) {
  if (launch.is_empty()) return;
  const std::string name = std::string("muster_host_kernel_") + launch.kernel;
  INFO(name << ", " << launch.blocks << " x " << launch.rows << " blocks");
  auto* const kernel = reinterpret_cast<void (*)(const fake_launch*, void**)>(find_symbol(name));
  const auto* const sizes = static_cast<const std::size_t*>(find_symbol(name + "_parameters"));
  REQUIRE(kernel != nullptr);
  REQUIRE(sizes != nullptr);
  REQUIRE(sizes[0] == launch.parameter_bytes());
  REQUIRE(sizes[1] == 0);
  const DeviceBuffer table(std::as_bytes(std::span(launch.table)), 0, Access::read);
  if (!launch.table.empty()) launch.set_table(table.address());
  const fake_launch how{{launch.blocks, launch.rows, 1}, {kernels::block_threads, 1, 1}, 0, 0};
  void* parameters[] = {launch.parameter()};
  refused = 0;
  kernel(&how, parameters);
  REQUIRE(refused == 0);
}

}  // namespace musterd::gpu::testing

extern "C" __attribute__((visibility("default"))) void* muster_fake_gpu_host_address(unsigned long long address,
                                                                                     std::size_t bytes,
                                                                                     int is_written) {
  using namespace musterd::gpu::testing;
  for (const DeviceBuffer* buffer : buffers()) {
    if (void* const found = find(*buffer, address, bytes, is_written != 0 ? Access::write : Access::read)) return found;
  }
  ++refused;
  return nullptr;
}
