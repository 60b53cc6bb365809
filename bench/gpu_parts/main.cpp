// What the parts of Muster's GPU support take on this machine's first GPU. bench/gpu runs it, bench/README.md says how
// the figures are meant.
#include <array>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "parts.hpp"

namespace {

enum Status { ok = 0, failed = 1, usage = 2, no_gpu = 77 };

constexpr std::uint64_t mebibyte = 1 << 20;
constexpr std::array sizes{mebibyte, 4 * mebibyte, 16 * mebibyte, 64 * mebibyte, 256 * mebibyte, 1024 * mebibyte};
constexpr std::array small_sizes{mebibyte, 4 * mebibyte};
constexpr std::array allreduce_sizes{std::uint64_t{32} << 10, mebibyte, 16 * mebibyte, 256 * mebibyte};
constexpr std::array small_allreduce_sizes{std::uint64_t{32} << 10, mebibyte};
constexpr bench::Effort whole{sizes, allreduce_sizes, 20, 10'000};
constexpr bench::Effort small{small_sizes, small_allreduce_sizes, 3, 1000};

struct Options {
  std::string json;
  bool is_smoke = false;
  bool is_valid = true;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--smoke") options.is_smoke = true;
    else if (word == "--json" && i + 1 < argc) options.json = argv[++i];
    else options.is_valid = false;
  }
  return options;
}

Status measure(const Options& options) {
  const bench::Device device;
  const bool is_fake = device.name().find("Fake") != std::string::npos;
  if (is_fake && !options.is_smoke) {
    fmt::print(stderr, "{} is a fake, and its figures would mean nothing (hint: --smoke shows that all of it works)\n",
               device.name());
    return usage;
  }
  fmt::print("{}{}\n\n", device.text(), is_fake ? ": a fake, so these figures mean nothing" : "");
  const auto& effort = options.is_smoke ? small : whole;
  bench::Report report(options.json, device.text(), is_fake);
  bench::measure_folds(device, effort, report);
  bench::measure_worker(device, effort, report);
  bench::measure_imports(device, effort, report);
  bench::measure_allreduce(device, effort, report);
  fmt::print("\n{} goals missed\n", report.missed());
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  if (!options.is_valid) {
    std::fputs("usage: gpu_bench [--smoke] [--json FILE]\n", stderr);
    return usage;
  }
  try {
    return measure(options);
  } catch (const bench::NoGpu& none) {
    fmt::print("no GPU: nothing was measured: {}\n", none.what());
    return no_gpu;
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_bench: {}\n", error.what());
    return failed;
  }
}
