// CUDA Driver API, 6.13 Memory Management: copies and fills; and its section "API synchronization behavior".
#include <cstring>
#include <numeric>

#include "gpu.hpp"

using namespace conformance;

namespace {

std::vector<unsigned char> counting(std::size_t number) {
  std::vector<unsigned char> bytes(number);
  std::iota(bytes.begin(), bytes.end(), static_cast<unsigned char>(1));
  return bytes;
}

}  // namespace

TEST_CASE("bytes come back from a device as they went") {
  const PrimaryContext context;
  const auto bytes = counting(100'003);
  const Memory one(bytes.size()), two(bytes.size());
  REQUIRE_CU(CU(cuMemcpyHtoD)(one.get(), bytes.data(), bytes.size()));
  REQUIRE_CU(CU(cuMemcpyDtoD)(two.get(), one.get(), bytes.size()));
  CHECK(bytes_at(two.get(), bytes.size()) == bytes);
}

TEST_CASE("cuMemcpy knows what its pointers are") {
  const PrimaryContext context;
  const auto bytes = counting(4096);
  std::vector<unsigned char> back(bytes.size());
  const Memory memory(bytes.size());
  REQUIRE_CU(CU(cuMemcpy)(memory.get(), reinterpret_cast<CUdeviceptr>(bytes.data()), bytes.size()));
  REQUIRE_CU(CU(cuMemcpy)(reinterpret_cast<CUdeviceptr>(back.data()), memory.get(), bytes.size()));
  CHECK(back == bytes);
}

TEST_CASE("a copy beyond the end of an allocation is refused") {
  const PrimaryContext context;
  const Memory memory(4 * mebibyte);
  std::vector<unsigned char> bytes(8 * mebibyte);
  CHECK(CU(cuMemcpyHtoD)(memory.get(), bytes.data(), bytes.size()) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemcpyDtoH)(bytes.data(), memory.get() + mebibyte, 4 * mebibyte) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemcpyHtoD)(0, bytes.data(), 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemcpyHtoD)(memory.get(), bytes.data(), 0) == CUDA_SUCCESS);
}

TEST_CASE("a copy may cross mappings that stand side by side") {
  const PrimaryContext context;
  const auto bytes = granularity();
  const Handle one(bytes), two(bytes);
  Reservation addresses(2 * bytes);
  REQUIRE_CU(CU(cuMemMap)(addresses.get(), bytes, 0, one.get(), 0));
  REQUIRE_CU(CU(cuMemMap)(addresses.get() + bytes, bytes, 0, two.get(), 0));
  REQUIRE_CU(set_access(addresses.get(), 2 * bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
  const auto values = counting(1000);
  REQUIRE_CU(CU(cuMemcpyHtoD)(addresses.get() + bytes - 500, values.data(), values.size()));
  CHECK(bytes_at(addresses.get() + bytes - 500, values.size()) == values);
  REQUIRE_CU(CU(cuMemUnmap)(addresses.get(), 2 * bytes));
}

TEST_CASE("fills count values, and want aligned addresses") {
  const PrimaryContext context;
  const Memory memory(64);
  REQUIRE_CU(CU(cuMemsetD8)(memory.get(), 0xff, 64));
  REQUIRE_CU(CU(cuMemsetD16)(memory.get(), 0x0201, 2));
  REQUIRE_CU(CU(cuMemsetD32)(memory.get() + 8, 0x06050403, 1));
  const std::vector<unsigned char> expected{1, 2, 1, 2, 0xff, 0xff, 0xff, 0xff, 3, 4, 5, 6, 0xff};
  CHECK(bytes_at(memory.get(), expected.size()) == expected);
  CHECK(CU(cuMemsetD16)(memory.get() + 1, 0, 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemsetD32)(memory.get() + 2, 0, 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuMemsetD8)(memory.get(), 0, 65 + (2 << 20)) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("asynchronous copies of pinned memory wait for their stream, and the caller doesn't") {
  const PrimaryContext context;
  const Stream stream;
  const Pinned host(2);
  const Memory memory(1);
  Gate gate;
  host.get()[0] = 1;
  host.get()[1] = 0;
  gate.close(stream.get());
  REQUIRE_CU(CU(cuMemcpyHtoDAsync)(memory.get(), host.get(), 1, stream.get()));
  REQUIRE_CU(CU(cuMemcpyDtoHAsync)(host.get() + 1, memory.get(), 1, stream.get()));
  host.get()[0] = 2;  // before the copy runs
  CHECK(CU(cuStreamQuery)(stream.get()) == CUDA_ERROR_NOT_READY);
  CHECK(host.get()[1] == 0);
  gate.open();
  CHECK(host.get()[1] == 2);
}

TEST_CASE("copies and fills within devices don't wait, and synchronous copies wait for the legacy stream") {
  const PrimaryContext context;
  const Stream blocking(CU_STREAM_DEFAULT);
  const Memory one(1), two(1);
  Gate gate;
  REQUIRE_CU(CU(cuMemsetD8)(one.get(), 5, 1));
  REQUIRE_CU(CU(cuMemsetD8)(two.get(), 0, 1));
  gate.close(blocking.get());
  REQUIRE_CU(CU(cuMemcpyDtoD)(two.get(), one.get(), 1));
  REQUIRE_CU(CU(cuMemsetD8)(one.get(), 6, 1));
  CHECK(CU(cuStreamQuery)(nullptr) == CUDA_ERROR_NOT_READY);
  gate.open();
  CHECK(bytes_at(two.get(), 1)[0] == 5);
  CHECK(bytes_at(one.get(), 1)[0] == 6);
}

TEST_CASE("a synchronous copy from pageable memory has taken the bytes when it returns") {
  const PrimaryContext context;
  const Memory memory(mebibyte);
  std::vector<unsigned char> bytes(mebibyte, 1);
  REQUIRE_CU(CU(cuMemcpyHtoD)(memory.get(), bytes.data(), bytes.size()));
  std::memset(bytes.data(), 2, bytes.size());
  CHECK(bytes_at(memory.get() + mebibyte - 1, 1)[0] == 1);
}

TEST_CASE("memory goes from device to device between contexts", "[2-gpus]") {
  REQUIRE(devices() >= 2);
  const PrimaryContext zero(0);
  const Memory from(4096);
  REQUIRE_CU(CU(cuMemsetD8)(from.get(), 9, 4096));
  REQUIRE_CU(CU(cuCtxSynchronize)());
  {
    const PrimaryContext one(1);
    const Memory to(4096);
    REQUIRE_CU(CU(cuMemcpyPeerAsync)(to.get(), one.get(), from.get(), zero.get(), 4096, nullptr));
    CHECK(bytes_at(to.get() + 4095, 1)[0] == 9);
    CHECK(CU(cuMemcpyPeerAsync)(to.get(), nullptr, from.get(), zero.get(), 1, nullptr) == CUDA_ERROR_INVALID_CONTEXT);
  }
  REQUIRE_CU(CU(cuCtxSetCurrent)(zero.get()));
}
