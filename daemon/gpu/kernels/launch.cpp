#include "daemon/gpu/kernels/launch.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>

#include "daemon/gpu/kernels/choice.hpp"
#include "daemon/gpu/kernels/memory.cuh"

namespace musterd::gpu::kernels {
namespace {

using muster::Code;
using muster::DType;
using muster::Error;
using muster::Result;

/// No array is larger; so sums of sizes and addresses don't wrap around.
constexpr std::uint64_t bytes_max = std::uint64_t{1} << 48;
/// Enough for every multiprocessor to be full a few times over; a thread then takes more than one vector.
constexpr std::uint64_t blocks_per_multiprocessor = 32;
constexpr std::uint64_t rows_max = 65535;  // the manual's limit of a grid in y

/// Chooses what is loaded as vectors: all of it between the ends, if the inputs reach an aligned address together.
Walk make_walk(std::uint64_t count, const Widths& widths, std::span<const Address> inputs,
               std::span<const Address> outputs) {
  Walk walk{.count = count, .vectors = 0, .head = 0, .aligned_outputs = 0};
  const std::uint64_t beyond = inputs[0] % vector_bytes;
  const auto together = [&](Address input) { return input % vector_bytes == beyond; };
  const auto in_elements = [&](Address output) { return output % widths.out_bytes == 0; };
  if (beyond % widths.in_bytes != 0 || !std::ranges::all_of(inputs, together)) return walk;
  if (!std::ranges::all_of(outputs, in_elements)) return walk;
  const std::uint64_t lanes = vector_bytes / widths.in_bytes;
  walk.head = static_cast<std::uint32_t>(std::min((vector_bytes - beyond) / widths.in_bytes % lanes, count));
  walk.vectors = (count - walk.head) / lanes;
  const std::uint64_t step = std::min<std::uint64_t>(vector_bytes, lanes * widths.out_bytes);
  const auto aligned = [&](Address output) {
    return (output + std::uint64_t{walk.head} * widths.out_bytes) % step == 0;
  };
  walk.aligned_outputs = std::ranges::all_of(outputs, aligned) ? 1 : 0;
  return walk;
}

std::uint64_t blocks_max(Gpu gpu) {
  return blocks_per_multiprocessor * std::max(std::uint64_t{gpu.multiprocessors}, std::uint64_t{1});
}

std::uint32_t blocks_for(std::uint64_t threads, Gpu gpu) {
  const std::uint64_t wanted = (threads + block_threads - 1) / block_threads;
  return static_cast<std::uint32_t>(std::clamp(wanted, std::uint64_t{1}, blocks_max(gpu)));
}

std::uint32_t blocks_for(const Walk& walk, const Widths& widths, Gpu gpu) {
  const std::uint64_t alone = walk.count - walk.vectors * (vector_bytes / widths.in_bytes);
  return blocks_for(std::max(walk.vectors, alone), gpu);
}

bool is_in_bounds(Address address, std::uint64_t count, std::uint64_t bytes_each) {
  constexpr Address end = std::numeric_limits<Address>::max() - bytes_max;
  return address != 0 && address <= end && count <= bytes_max / bytes_each;
}

std::optional<Error> error_of(const FoldCall& call) {
  const auto text = [](std::size_t number) { return std::to_string(number); };
  if (call.inputs.empty() || call.inputs.size() > inputs_max)
    return Error(Code::invalid,
                 "a fold of " + text(call.inputs.size()) + " inputs, but it takes 1 to " + text(inputs_max),
                 "fold some of them first");
  if (call.outputs.empty() || call.outputs.size() > call.inputs.size())
    return Error(Code::invalid, text(call.outputs.size()) + " outputs of a fold of " + text(call.inputs.size()) +
                                    " inputs, but it has 1 output, or as many as inputs at most");
  if (call.divisor != 0 && call.outputs.size() != 1)
    return Error(Code::invalid, "a scan with a divisor of " + std::to_string(call.divisor),
                 "leave it out: each prefix is divided by its own number of ranks");
  const auto in_bounds = [&](Address address) { return is_in_bounds(address, call.count, sizeof(Bits128)); };
  if (call.count != 0 && !(std::ranges::all_of(call.inputs, in_bounds) && std::ranges::all_of(call.outputs, in_bounds)))
    return Error(Code::invalid, "a fold of " + text(call.count) + " elements at addresses that can't hold them");
  return std::nullopt;
}

std::uint32_t divisor_of(const FoldCall& call) {
  return call.divisor != 0 ? call.divisor : static_cast<std::uint32_t>(call.inputs.size());
}

FewArguments pack_few(const FoldCall& call, const Walk& walk) {
  FewArguments few{.walk = walk,
                   .ranks = static_cast<std::uint32_t>(call.inputs.size()),
                   .divisor = divisor_of(call),
                   .output = call.outputs[0],
                   .inputs = {}};
  std::ranges::copy(call.inputs, few.inputs);
  return few;
}

void pack_many(const FoldCall& call, const Walk& walk, Launch& launch) {
  ManyArguments many{.walk = walk,
                     .ranks = static_cast<std::uint32_t>(call.inputs.size()),
                     .outputs = static_cast<std::uint32_t>(call.outputs.size()),
                     .divisor = divisor_of(call),
                     .reserved = 0,
                     .table = 0,
                     .carried = {}};
  if (call.inputs.size() + call.outputs.size() <= carried_max) {
    std::ranges::copy(call.outputs, std::ranges::copy(call.inputs, many.carried).out);
  } else {
    launch.table.assign(call.inputs.begin(), call.inputs.end());
    launch.table.insert(launch.table.end(), call.outputs.begin(), call.outputs.end());
  }
  launch.arguments = many;
}

/// The bits of the factor in the type that elements are multiplied in; none if it is of the wrong kind.
std::optional<std::uint64_t> factor_bits(const PremultiplyCall& call) {
  if (call.dtype == DType::bool_) return std::nullopt;
  if (const auto* integer = std::get_if<std::int64_t>(&call.factor))
    return muster::is_integer(call.dtype) ? std::optional(static_cast<std::uint64_t>(*integer)) : std::nullopt;
  if (muster::is_integer(call.dtype)) return std::nullopt;
  const double factor = std::get<double>(call.factor);
  if (call.dtype == DType::float64 || call.dtype == DType::complex128) return same_bits<std::uint64_t>(factor);
  return same_bits<std::uint32_t>(static_cast<float>(factor));
}

}  // namespace

void Launch::set_table(Address address) {
  if (auto* many = std::get_if<ManyArguments>(&arguments)) many->table = address;
  if (auto* copy = std::get_if<CopyArguments>(&arguments)) copy->table = address;
}

void* Launch::parameter() {
  return std::visit([](auto& packed) -> void* { return &packed; }, arguments);
}

std::size_t Launch::parameter_bytes() const {
  return std::visit([](const auto& packed) { return sizeof packed; }, arguments);
}

Result<Launch> launch_fold(const FoldCall& call, Gpu gpu) {
  const std::optional<FoldChoice> choice = choose_fold(call.dtype, call.op);
  if (!choice)
    return Error(Code::invalid, std::string(muster::name(call.op)) + " of " + std::string(muster::name(call.dtype)) +
                                    " has no meaning");
  if (std::optional<Error> error = error_of(call)) return *std::move(error);
  Launch launch;
  if (call.count == 0) return launch;
  const FoldKernels& kernel = *choice->kernels;
  const Walk walk = make_walk(call.count * choice->parts, kernel.widths, call.inputs, call.outputs);
  launch.blocks = blocks_for(walk, kernel.widths, gpu);
  if (call.outputs.size() == 1 && call.inputs.size() <= few_max) {
    launch.kernel = kernel.few;
    launch.arguments = pack_few(call, walk);
  } else {
    launch.kernel = call.outputs.size() == 1 ? kernel.many : kernel.scan;
    pack_many(call, walk, launch);
  }
  return launch;
}

Result<Launch> launch_premultiply(const PremultiplyCall& call, Gpu gpu) {
  const std::optional<std::uint64_t> factor = factor_bits(call);
  if (!factor)
    return Error(Code::invalid, "a premultiplied " + std::string(muster::name(call.dtype)) +
                                    " with a factor of another kind: integers take an integer, floating-point and "
                                    "complex numbers a float64, bool none");
  Launch launch;
  if (call.count == 0) return launch;
  if (!is_in_bounds(call.input, call.count, sizeof(Bits128)) || !is_in_bounds(call.output, call.count, sizeof(Bits128)))
    return Error(Code::invalid, "a premultiplied copy of " + std::to_string(call.count) +
                                    " elements at addresses that can't hold them");
  const PremultiplyKernel& kernel = choose_premultiply(call.dtype);
  const std::uint64_t parts = muster::is_complex(call.dtype) ? 2 : 1;
  const Walk walk = make_walk(call.count * parts, kernel.widths, std::span(&call.input, 1), std::span(&call.output, 1));
  launch.kernel = kernel.name;
  launch.blocks = blocks_for(walk, kernel.widths, gpu);
  launch.arguments = PremultiplyArguments{.walk = walk, .factor = *factor, .output = call.output, .input = call.input};
  return launch;
}

Result<Launch> launch_copy(std::span<const Piece> pieces, Gpu gpu) {
  Launch launch;
  std::vector<Piece> wanted;
  std::uint64_t largest = 0;
  for (const Piece& piece : pieces) {
    if (piece.bytes == 0) continue;
    if (!is_in_bounds(piece.source, piece.bytes, 1) || !is_in_bounds(piece.destination, piece.bytes, 1))
      return Error(Code::invalid,
                   "a copy of " + std::to_string(piece.bytes) + " bytes at addresses that can't hold them");
    wanted.push_back(piece);
    largest = std::max(largest, piece.bytes);
  }
  if (wanted.empty()) return launch;
  launch.kernel = "muster_copy";
  launch.rows = static_cast<std::uint32_t>(std::min<std::uint64_t>(wanted.size(), rows_max));
  const std::uint64_t share = blocks_max(gpu) / launch.rows;
  launch.blocks = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(blocks_for(largest / vector_bytes, gpu), std::max<std::uint64_t>(share, 1)));
  CopyArguments copy{.pieces = wanted.size(), .table = 0, .carried = {}};
  if (wanted.size() <= carried_pieces_max) {
    std::ranges::copy(wanted, copy.carried);
  } else {
    for (const Piece& piece : wanted)
      launch.table.insert(launch.table.end(), {piece.source, piece.destination, piece.bytes});
  }
  launch.arguments = copy;
  return launch;
}

}  // namespace musterd::gpu::kernels
