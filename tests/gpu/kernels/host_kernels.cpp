#include "host_kernels.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "daemon/gpu/kernels/kernel_list.hpp"

namespace musterd::gpu::testing {
namespace {

using HostAddress = void* (*)(unsigned long long address, std::size_t bytes, int is_written);

/// The program's own function, or that of the fake driver, whoever opened it and how.
HostAddress find_host_address() {
  constexpr const char* name = "muster_fake_gpu_host_address";
  void* found = dlsym(RTLD_DEFAULT, name);
  if (found == nullptr) {
    if (void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD)) found = dlsym(driver, name);
  }
  if (found == nullptr) std::abort();  // nothing here can run without it
  return reinterpret_cast<HostAddress>(found);
}

}  // namespace

void* host_address(Address address, std::size_t bytes, bool is_written) {
  static const HostAddress find = find_host_address();
  return find(address, bytes, is_written ? 1 : 0);
}

HostTable::HostTable(kernels::ManyArguments& call, std::uint64_t in_bytes, std::uint64_t out_bytes) {
  const std::uint32_t addresses = call.ranks + call.outputs;
  Address* list = call.carried;
  if (call.table != 0) {
    Address table = call.table;
    translate_(table, addresses * sizeof(Address), false);
    if (!translate_.is_good()) return;
    list = copy_ = new Address[addresses];
    std::copy_n(reinterpret_cast<const Address*>(table), addresses, copy_);
    call.table = reinterpret_cast<Address>(copy_);
  }
  for (std::uint32_t i = 0; i < addresses; ++i) {
    const bool is_output = i >= call.ranks;
    translate_(list[i], call.walk.count * (is_output ? out_bytes : in_bytes), is_output);
  }
}

void run_copy(const fake_launch* launch, void** parameters) {
  auto call = *static_cast<const kernels::CopyArguments*>(parameters[0]);
  Translation translate;
  std::vector<kernels::Piece> pieces;
  if (call.table != 0) {
    Address table = call.table;
    translate(table, call.pieces * sizeof(kernels::Piece), false);
    if (!translate.is_good()) return;
    const auto* const first = reinterpret_cast<const kernels::Piece*>(table);
    pieces.assign(first, first + call.pieces);
    call.table = reinterpret_cast<Address>(pieces.data());
  }
  kernels::Piece* const list = call.table != 0 ? pieces.data() : call.carried;
  for (std::uint64_t i = 0; i < call.pieces; ++i) {
    translate(list[i].source, list[i].bytes, false);
    translate(list[i].destination, list[i].bytes, true);
  }
  if (translate.is_good()) for_each_thread(*launch, [&](CopyIndex at) { kernels::copy(call, at); });
}

}  // namespace musterd::gpu::testing

namespace musterd::gpu::kernels {

#define MUSTER_HOST_PREMULTIPLY(name, Out, ...)                       \
  MUSTER_HOST_KERNEL(muster_premultiply_##name, PremultiplyArguments, \
                     testing::run_premultiply<Fold<__VA_ARGS__, Multiply, Out>>)
MUSTERD_GPU_PREMULTIPLIES(MUSTER_HOST_PREMULTIPLY)

MUSTER_HOST_KERNEL(muster_copy, CopyArguments, testing::run_copy)

}  // namespace musterd::gpu::kernels
