// Which images of GPU code a fake device takes. The headers are laid out as nvcc's.
#include "image.hpp"

#include <cstring>
#include <vector>

#include <catch2/catch.hpp>

using fake_gpu::check_image;
using fake_gpu::DeviceSettings;

namespace {

struct Code {
  std::uint16_t kind;  // 1 for PTX, 2 for machine code
  std::uint32_t architecture;
};

template <class T>
void put(std::vector<char>& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

std::vector<char> fatbin(const std::vector<Code>& codes) {
  constexpr std::size_t file_header = 16, entry_header = 64, code_bytes = 8;
  std::vector<char> bytes(file_header + codes.size() * (entry_header + code_bytes));
  put(bytes, 0, std::uint32_t{0xba55ed50});
  put(bytes, 4, std::uint16_t{1});
  put(bytes, 6, std::uint16_t{file_header});
  put(bytes, 8, std::uint64_t{bytes.size() - file_header});
  std::size_t at = file_header;
  for (const auto& code : codes) {
    put(bytes, at, code.kind);
    put(bytes, at + 4, std::uint32_t{entry_header});
    put(bytes, at + 8, std::uint64_t{code_bytes});
    put(bytes, at + 28, code.architecture);
    at += entry_header + code_bytes;
  }
  return bytes;
}

DeviceSettings device(int major, int minor) {
  DeviceSettings settings;
  settings.compute_major = major;
  settings.compute_minor = minor;
  return settings;
}

}  // namespace

TEST_CASE("machine code is for its major revision, from its minor revision on") {
  const auto image = fatbin({{2, 80}, {2, 90}});
  CHECK(check_image(image.data(), device(8, 0)) == CUDA_SUCCESS);
  CHECK(check_image(image.data(), device(8, 6)) == CUDA_SUCCESS);
  CHECK(check_image(image.data(), device(9, 0)) == CUDA_SUCCESS);
  CHECK(check_image(image.data(), device(7, 5)) == CUDA_ERROR_NO_BINARY_FOR_GPU);
  CHECK(check_image(image.data(), device(10, 0)) == CUDA_ERROR_NO_BINARY_FOR_GPU);
  CHECK(check_image(fatbin({{2, 86}}).data(), device(8, 0)) == CUDA_ERROR_NO_BINARY_FOR_GPU);
}

TEST_CASE("PTX is for its revision and all later ones") {
  const auto image = fatbin({{1, 80}});
  CHECK(check_image(image.data(), device(12, 0)) == CUDA_SUCCESS);
  CHECK(check_image(image.data(), device(7, 5)) == CUDA_ERROR_NO_BINARY_FOR_GPU);
}
