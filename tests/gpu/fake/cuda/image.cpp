#include "image.hpp"

#include <cstdint>
#include <cstring>
#include <string_view>

namespace fake_gpu {
namespace {

constexpr std::uint32_t wrapper_magic = 0x466243b1;
constexpr std::uint32_t fatbin_magic = 0xba55ed50;
constexpr std::uint16_t kind_ptx = 1, kind_elf = 2;

struct Wrapper {
  std::uint32_t magic, version;
  const void* data;
};

struct FatbinHeader {
  std::uint32_t magic;
  std::uint16_t version, header_bytes;
  std::uint64_t bytes;  // of all entries
};

struct FatbinEntry {
  std::uint16_t kind, attributes;
  std::uint32_t header_bytes;
  std::uint64_t bytes;  // of the code
  std::uint32_t unused[3];
  std::uint32_t architecture;  // 90 for sm_90
};

template <class T>
T read(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

/// CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility": machine code runs on devices of the same
/// major and a greater or equal minor revision; PTX is compiled for all later ones.
bool runs_on(const FatbinEntry& entry, const DeviceSettings& device) {
  const auto own = static_cast<std::uint32_t>(device.compute_major * 10 + device.compute_minor);
  if (entry.kind == kind_ptx) return entry.architecture <= own;
  return entry.kind == kind_elf && entry.architecture / 10 == own / 10 && entry.architecture <= own;
}

CUresult check_fatbin(const char* image, const DeviceSettings& device) {
  const auto header = read<FatbinHeader>(image);
  const char* at = image + header.header_bytes;
  const char* end = at + header.bytes;
  while (at + sizeof(FatbinEntry) <= end) {
    const auto entry = read<FatbinEntry>(at);
    if (runs_on(entry, device)) return CUDA_SUCCESS;
    if (entry.header_bytes == 0) return CUDA_ERROR_INVALID_IMAGE;
    at += entry.header_bytes + entry.bytes;
  }
  return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

bool is_ptx(const char* image) {
  constexpr std::string_view directive = ".version";
  for (const char* at = image; *at != '\0'; ++at) {
    if (std::strncmp(at, directive.data(), directive.size()) == 0) return true;
    if (static_cast<unsigned char>(*at) > 126) return false;
  }
  return false;
}

}  // namespace

CUresult check_image(const void* image, const DeviceSettings& device) {
  const auto* bytes = static_cast<const char*>(image);
  const auto magic = read<std::uint32_t>(bytes);
  if (magic == wrapper_magic) return check_image(read<Wrapper>(bytes).data, device);
  if (magic == fatbin_magic) return check_fatbin(bytes, device);
  if (std::memcmp(bytes, "\177ELF", 4) == 0) return CUDA_SUCCESS;
  return is_ptx(bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}

}  // namespace fake_gpu
