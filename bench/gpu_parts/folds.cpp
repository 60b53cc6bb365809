// Fused folds of N inputs. They read N arrays and write one, so (N + 1) x bytes at the rate of a copy is their bound.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "daemon/gpu/kernels/launch.hpp"
#include "gpu/worker/kernels.hpp"
#include "parts.hpp"

namespace bench {

namespace {

using musterd::gpu::DeviceMapping;
using musterd::gpu::Kernels;
namespace kernels = musterd::gpu::kernels;
using muster::DType;

constexpr std::array ranks_of_folds{2U, 4U, 8U};
constexpr unsigned ranks_max = 8;
/// Below this the start of a launch and the GPU's caches count, too.
constexpr std::uint64_t goal_bytes_min = 64 << 20;

/// Two elements of float16 or one of float32, all of this small whole number.
std::uint32_t pattern(DType dtype, unsigned value) {
  if (dtype == DType::float32) {
    const auto number = static_cast<float>(value);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
  }
  constexpr unsigned bias = 15;
  constexpr unsigned mantissa_bits = 10;
  const auto exponent = static_cast<unsigned>(std::ilogb(static_cast<double>(value)));
  const std::uint32_t half =
      (bias + exponent) << mantissa_bits | (value << (mantissa_bits - exponent) & ((1U << mantissa_bits) - 1));
  return half << 16 | half;
}

class Folds {
 public:
  Folds(const Device& device, const Effort& effort, Report& report)
      : device_(device), effort_(effort), report_(report), kernels_(device.driver(), device.number()) {
    if (auto there = Kernels::there(); !there) throw std::runtime_error(there.error().describe());
  }

  void measure() {
    make_arrays();
    measure_copies();
    for (const auto dtype : {DType::float32, DType::float16}) {
      for (unsigned rank = 0; rank < ranks_max; ++rank) fill(*arrays_[rank], pattern(dtype, rank + 1));
      for (const unsigned ranks : ranks_of_folds)
        for (const auto bytes : effort_.sizes)
          if (bytes <= bytes_max_) measure_fold(dtype, ranks, bytes);
    }
    measure_launch();
  }

 private:
  /// Of the largest size for which there is room, for all inputs and the result.
  void make_arrays() {
    constexpr std::uint64_t spare = 256 << 20;
    const std::uint64_t unused = device_.free_bytes();
    const std::uint64_t room = unused > 2 * spare ? unused - spare : unused / 2;
    for (const auto bytes : effort_.sizes) {
      if ((ranks_max + 1) * bytes <= room) bytes_max_ = bytes;
      else
        report_.leave_out("arrays of " + muster::ipc::bytes_text(bytes),
                          fmt::format("{} are free on the GPU", muster::ipc::bytes_text(unused)));
    }
    for (unsigned i = 0; i <= ranks_max; ++i) arrays_.push_back(device_.memory(bytes_max_));
  }

  void fill(const DeviceMapping& array, std::uint32_t value) {
    device_.must("cuMemsetD32Async",
                 device_.driver().memset_d32_async(array.address(), value, bytes_max_ / 4, device_.stream()));
    device_.wait();
  }

  /// The time of one of them, if they follow each other.
  template <class Enqueue>
  std::vector<double> times(const Enqueue& enqueue) {
    enqueue();
    device_.wait();
    const auto first = Clock::now();
    enqueue();
    device_.wait();
    const auto batch = static_cast<unsigned>(std::clamp(effort_.round_us / us_since(first), 1.0, 1000.0));
    std::vector<double> all;
    for (unsigned round = 0; round < effort_.rounds; ++round) {
      const auto begin = Clock::now();
      for (unsigned i = 0; i < batch; ++i) enqueue();
      device_.wait();
      all.push_back(us_since(begin) / batch);
    }
    return all;
  }

  void measure_copies() {
    for (const auto bytes : effort_.sizes) {
      if (bytes > bytes_max_) continue;
      const auto copied =
          summarized({.what = "copy", .bytes = bytes}, times([&] {
                       device_.must("cuMemcpyDtoDAsync",
                                    device_.driver().memcpy_dtod_async(arrays_[1]->address(), arrays_[0]->address(),
                                                                       bytes, device_.stream()));
                     }),
                     2 * bytes);
      report_.add(copied);
      copy_gbps_ = copied.gbps;  // the largest one counts, which no cache holds
    }
  }

  kernels::Launch launch_of(DType dtype, unsigned ranks, std::uint64_t bytes) {
    std::vector<kernels::Address> inputs;
    for (unsigned rank = 0; rank < ranks; ++rank) inputs.push_back(arrays_[rank]->address());
    const kernels::Address output = arrays_[ranks_max]->address();
    return kernels::launch_fold({dtype, muster::ReduceOp::sum, bytes / muster::size_of(dtype), inputs, {&output, 1}},
                                kernels_.gpu())
        .value();
  }

  void enqueue(kernels::Launch& launch) {
    std::vector<musterd::gpu::PinnedTable> none;  // so few addresses need no table
    const auto [call, status] = kernels_.launch(launch, device_.stream(), none);
    device_.must(call, status);
  }

  void measure_fold(DType dtype, unsigned ranks, std::uint64_t bytes) {
    fill(*arrays_[ranks_max], ~0U);
    auto launch = launch_of(dtype, ranks, bytes);
    const std::uint64_t moved = (ranks + 1) * bytes;
    auto folded = summarized({.what = "fold", .dtype = muster::name(dtype), .ranks = ranks, .bytes = bytes},
                             times([&] { enqueue(launch); }), moved);
    folded.share = folded.gbps / copy_gbps_;
    folded.has_goal = bytes >= goal_bytes_min;
    report_.add(folded);
    check(dtype, ranks, bytes);
  }

  /// Compares all of the result.
  void check(DType dtype, unsigned ranks, std::uint64_t bytes) {
    const std::uint32_t expected = pattern(dtype, ranks * (ranks + 1) / 2);
    std::vector<std::uint32_t> part((4 << 20) / sizeof(std::uint32_t));
    for (std::uint64_t at = 0; at < bytes; at += part.size() * sizeof part[0]) {
      part.resize(std::min<std::uint64_t>(part.size(), (bytes - at) / sizeof part[0]));
      device_.must("cuMemcpyDtoHAsync",
                   device_.driver().memcpy_dtoh_async(part.data(), arrays_[ranks_max]->address() + at,
                                                      part.size() * sizeof part[0], device_.stream()));
      device_.wait();
      if (std::ranges::any_of(part, [&](std::uint32_t value) { return value != expected; }))
        throw std::runtime_error(fmt::format("a fold of {} arrays of {} of {} has a wrong result", ranks,
                                             muster::ipc::bytes_text(bytes), muster::name(dtype)));
    }
  }

  /// From the call to the end of a kernel that does next to nothing.
  void measure_launch() {
    constexpr std::uint64_t bytes = 1024;
    auto launch = launch_of(DType::float32, 2, bytes);
    std::vector<double> all;
    for (unsigned i = 0; i < 100 * effort_.rounds; ++i) {
      const auto begin = Clock::now();
      enqueue(launch);
      device_.wait();
      all.push_back(us_since(begin));
    }
    report_.add(summarized({.what = "launch and wait", .dtype = "float32", .ranks = 2, .bytes = bytes}, all));
  }

  const Device& device_;
  const Effort& effort_;
  Report& report_;
  Kernels kernels_;
  std::uint64_t bytes_max_ = 0;
  double copy_gbps_ = 0;
  std::vector<std::unique_ptr<DeviceMapping>> arrays_;  ///< all inputs, and the result
};

}  // namespace

void measure_folds(const Device& device, const Effort& effort, Report& report) {
  Folds(device, effort, report).measure();
}

}  // namespace bench
