// The kernels' own source, compiled for the host, under the names that a fake GPU looks up: a launch of NAME runs
// `muster_host_kernel_NAME`, and `muster_host_kernel_NAME_parameters` has the size of each parameter and a 0.
//
// Device addresses are translated by `muster_fake_gpu_host_address`, which the fake driver has, or the program itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "daemon/gpu/kernels/copy.cuh"

extern "C" {

/// As the fake driver declares it.
struct fake_launch {
  unsigned grid[3];
  unsigned block[3];
  std::size_t shared_bytes;
  int device;
};

}  // extern "C"

namespace musterd::gpu::testing {

using kernels::Address;
using kernels::CopyIndex;
using kernels::Index;

/// Where these bytes lie on the host. Null if the GPU may not touch them so; the kernel then ends.
[[nodiscard]] void* host_address(Address address, std::size_t bytes, bool is_written);

/// Replaces the addresses of a call by the host's. Returns false if one is bad.
class Translation {
 public:
  void operator()(Address& address, std::uint64_t bytes, bool is_written) {
    void* const found = host_address(address, bytes, is_written);
    is_good_ &= found != nullptr;
    address = reinterpret_cast<Address>(found);
  }
  [[nodiscard]] bool is_good() const { return is_good_; }

 private:
  bool is_good_ = true;
};

/// Calls `run(index)` for every thread of every block, one after the other.
template <class Run>
void for_each_thread(const fake_launch& launch, Run run) {
  const std::uint64_t threads = std::uint64_t{launch.grid[0]} * launch.block[0];
  for (unsigned row = 0; row < launch.grid[1]; ++row)
    for (std::uint64_t thread = 0; thread < threads; ++thread)
      run(CopyIndex{.index = {.thread = thread, .threads = threads}, .row = row, .rows = launch.grid[1]});
}

template <class F>
void run_few(const fake_launch* launch, void** parameters) {
  auto call = *static_cast<const kernels::FewArguments*>(parameters[0]);
  Translation translate;
  for (std::uint32_t rank = 0; rank < call.ranks; ++rank)
    translate(call.inputs[rank], call.walk.count * sizeof(typename F::In), false);
  translate(call.output, call.walk.count * sizeof(typename F::Out), true);
  if (translate.is_good()) for_each_thread(*launch, [&](CopyIndex at) { kernels::fold_few<F>(call, at.index); });
}

/// Addresses of a call that has many: those in the arguments stay there, a table is replaced by one of the host's.
class HostTable {
 public:
  HostTable(kernels::ManyArguments& call, std::uint64_t in_bytes, std::uint64_t out_bytes);
  HostTable(const HostTable&) = delete;
  HostTable& operator=(const HostTable&) = delete;
  ~HostTable() { delete[] copy_; }
  [[nodiscard]] bool is_good() const { return translate_.is_good(); }

 private:
  Translation translate_;
  Address* copy_ = nullptr;
};

template <class F>
void run_many(const fake_launch* launch, void** parameters) {
  auto call = *static_cast<const kernels::ManyArguments*>(parameters[0]);
  const HostTable table(call, sizeof(typename F::In), sizeof(typename F::Out));
  if (table.is_good()) for_each_thread(*launch, [&](CopyIndex at) { kernels::fold_many<F>(call, at.index); });
}

template <class F>
void run_scan(const fake_launch* launch, void** parameters) {
  auto call = *static_cast<const kernels::ManyArguments*>(parameters[0]);
  const HostTable table(call, sizeof(typename F::In), sizeof(typename F::Out));
  if (table.is_good()) for_each_thread(*launch, [&](CopyIndex at) { kernels::scan<F>(call, at.index); });
}

template <class F>
void run_premultiply(const fake_launch* launch, void** parameters) {
  auto call = *static_cast<const kernels::PremultiplyArguments*>(parameters[0]);
  Translation translate;
  translate(call.input, call.walk.count * sizeof(typename F::In), false);
  translate(call.output, call.walk.count * sizeof(typename F::Out), true);
  if (translate.is_good()) for_each_thread(*launch, [&](CopyIndex at) { kernels::premultiply<F>(call, at.index); });
}

}  // namespace musterd::gpu::testing

#define MUSTER_HOST_KERNEL(name, Arguments, ...)                                                  \
  extern "C" const std::size_t muster_host_kernel_##name##_parameters[] = {sizeof(Arguments), 0}; \
  extern "C" void muster_host_kernel_##name(const fake_launch* launch, void** parameters) {       \
    __VA_ARGS__(launch, parameters);                                                              \
  }

#define MUSTER_HOST_FOLD(name, Op, Out, ...)                                                                \
  MUSTER_HOST_KERNEL(muster_fold_few_##name, FewArguments, testing::run_few<Fold<__VA_ARGS__, Op, Out>>)    \
  MUSTER_HOST_KERNEL(muster_fold_many_##name, ManyArguments, testing::run_many<Fold<__VA_ARGS__, Op, Out>>) \
  MUSTER_HOST_KERNEL(muster_scan_##name, ManyArguments, testing::run_scan<Fold<__VA_ARGS__, Op, Out>>)
