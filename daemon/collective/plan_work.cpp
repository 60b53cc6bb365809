#include "collective/plan_work.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/assert.hpp"

namespace musterd {

using muster::Code;
using muster::Device;
using muster::DType;
using muster::Error;
using muster::ipc::Leaf;
using muster::ipc::Manifest;

Device counted(Device device) { return device.is_host() ? Device::cpu() : device; }

std::string devices_text(std::span<const Device> devices) {
  std::string text;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (i > 0) text += i + 1 == devices.size() ? " and " : ", ";
    text += name(devices[i]);
  }
  return text;
}

namespace {

/// Vector loads, and threads that share an output, want cache lines of their own.
constexpr std::uint64_t alignment = 64;

/// A cap far above any memory and far below overflow, for the sum of an output's leaves.
constexpr std::uint64_t output_bytes_max = std::uint64_t{1} << 60;

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

/// Where the arrays of an object lie, which must be one device.
Device device_of(const Manifest& manifest) {
  return manifest.leaves.empty() ? Device::cpu() : counted(manifest.leaves.front().device);
}

}  // namespace

PlanWork::PlanWork(const Op& op, Plan& plan, std::span<const Device> homes)
    : op_(op), plan_(plan), homes_(homes), reduce_op_(op.contributions.front().op) {
  for (std::size_t i = 0; i < plan.devices.size(); ++i) index_of_[plan.devices[i].index] = static_cast<std::uint8_t>(i);
}

void PlanWork::expect(std::size_t arrays_read, std::size_t arrays_made, std::size_t outputs) {
  arrays_read_ = arrays_read;
  arrays_made_ = arrays_made;
  plan_.outputs.reserve(outputs);
}

std::size_t PlanWork::copied(const Input& from) {
  const Manifest& like = *from.manifest;
  const Device device = device_of(like);
  if (std::ranges::find(plan_.devices, device) == plan_.devices.end()) plan_.devices.push_back(device);
  const std::size_t output = add_output(like, device);
  for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
    const Leaf& each = like.leaves[leaf];
    if (counted(each.device) != device) refuse_places(device, each.device);
    auto to = add_leaf(output, each.dtype, like.shape(each));
    if (to && each.bytes() > 0) append_copy(from.place(leaf), each.bytes(), *to);
  }
  return output;
}

std::size_t PlanWork::folded(const Column& inputs) {
  const Manifest& like = *inputs.front()->manifest;
  const std::size_t output = add_output(like, plan_.devices.front());
  // Reserves for all outputs at once.
  plan_.work.folds.reserve(arrays_made_);
  plan_.work.inputs.reserve(arrays_read_);
  for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
    const auto to = add_reduced(output, like, leaf);
    if (to && like.leaves[leaf].count > 0) add_fold(inputs, leaf, *to, 0);
  }
  return output;
}

std::size_t PlanWork::scanned(const Column& inputs, std::size_t prefixes, std::span<const Device> devices) {
  const Manifest& like = *inputs.front()->manifest;
  const std::size_t skipped = inputs.size() - prefixes;
  const std::size_t first = add_output(like, devices[skipped]);
  for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) add_reduced(first, like, leaf);
  if (error_) return first;
  for (std::size_t rank = skipped + 1; rank < inputs.size(); ++rank) {
    plan_.outputs.push_back(plan_.outputs[first]);
    PlannedOutput& output = plan_.outputs[plan_.outputs.size() - 1];
    output.device = devices[rank];
    for (Leaf& leaf : output.manifest.leaves) leaf.device = devices[rank];
  }
  const bool on_one = plan_.devices.size() == 1;
  if (on_one) {
    plan_.work.folds.reserve(like.leaves.size());
    plan_.work.inputs.reserve(arrays_read_);
  }
  for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
    if (like.leaves[leaf].count == 0) continue;
    const Spot to{first, plan_.outputs[first].manifest.leaves[leaf].offset};
    if (on_one) add_fold(inputs, leaf, to, prefixes);
    else add_scan_by_transfers(inputs, leaf, to, devices, skipped);
  }
  return first;
}

std::optional<PlanWork::Spot> PlanWork::add_reduced(std::size_t output, const Manifest& like, std::size_t leaf) {
  const Leaf& from = like.leaves[leaf];
  const auto dtype = muster::result_dtype(from.dtype, reduce_op_);
  MUSTER_ASSERT(dtype, "a reduce op without meaning is refused when it is contributed");
  return add_leaf(output, *dtype, like.shape(from));
}

void PlanWork::add_fold(const Column& inputs, std::size_t leaf, Spot to, std::size_t prefixes, std::uint32_t divisor) {
  const Leaf& like = inputs.front()->manifest->leaves[leaf];
  auto& places = plan_.work.inputs;
  plan_.work.folds.push_back({.output = static_cast<std::uint32_t>(to.output),
                              .prefixes = static_cast<std::uint32_t>(prefixes),
                              .offset = to.offset,
                              .count = like.count,
                              .first_input = static_cast<std::uint32_t>(places.size()),
                              .ranks = static_cast<std::uint16_t>(inputs.size()),
                              .dtype = like.dtype,
                              .op = reduce_op_,
                              .divisor = divisor});
  for (const Input* input : inputs) places.push_back(input->place(leaf));
  const auto result = muster::result_dtype(like.dtype, reduce_op_).value_or(like.dtype);
  plan_.work_bytes +=
      like.bytes() * inputs.size() + like.count * muster::size_of(result) * std::max<std::size_t>(prefixes, 1);
}

std::size_t PlanWork::stacked(const Column& inputs, Device device) {
  const Manifest& like = *inputs.front()->manifest;
  const std::size_t output = add_output(like, device);
  for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
    const auto part = like.shape(like.leaves[leaf]);
    std::vector<std::int64_t> shape{static_cast<std::int64_t>(inputs.size())};
    shape.insert(shape.end(), part.begin(), part.end());
    append_parts(inputs, leaf, add_leaf(output, like.leaves[leaf].dtype, shape));
  }
  return output;
}

std::size_t PlanWork::joined(const Column& inputs, Device device) {
  const Manifest& like = *inputs.front()->manifest;
  const std::size_t output = add_output(like, device);
  for (std::size_t leaf = 0; leaf < like.leaves.size(); ++leaf) {
    const auto part = like.shape(like.leaves[leaf]);
    std::vector<std::int64_t> shape(part.begin(), part.end());
    shape[0] = 0;
    // Arrays without elements may have any length, so the sum may overflow.
    for (const Input* input : inputs)
      if (__builtin_add_overflow(shape[0], input->manifest->shape(input->manifest->leaves[leaf])[0], &shape[0]))
        return refuse_size(), output;
    append_parts(inputs, leaf, add_leaf(output, like.leaves[leaf].dtype, shape));
  }
  return output;
}

/// Parts that lie on another device are transferred to where others are copied to.
void PlanWork::append_parts(const Column& inputs, std::size_t leaf, std::optional<Spot> to) {
  if (!to) return;
  const std::size_t device = index_of(plan_.outputs[to->output].device);
  if (plan_.devices.size() == 1) plan_.work.copies.reserve(arrays_read_);
  for (std::size_t rank = 0; rank < inputs.size(); ++rank) {
    const std::uint64_t bytes = inputs[rank]->manifest->leaves[leaf].bytes();
    if (bytes == 0) continue;
    const std::size_t from = index_of(homes_[rank]);
    if (from == device) {
      append_copy(inputs[rank]->place(leaf), bytes, *to);
    } else {
      add_transfer({.given = inputs[rank]->place(leaf)}, from, device, *to, bytes);
      to->offset += bytes;
    }
  }
}

void PlanWork::append_copy(const Place& from, std::uint64_t bytes, Spot& to) {
  plan_.work.copies.push_back({to.output, to.offset, from, bytes});
  plan_.work_bytes += 2 * bytes;
  to.offset += bytes;
}

std::size_t PlanWork::add_output(const Manifest& like, Device device) {
  PlannedOutput output;
  output.device = device;
  output.manifest.structure = like.structure;
  output.manifest.guise = like.guise;
  output.manifest.leaves.reserve(like.leaves.size());
  output.manifest.dims.reserve(like.dims.size() + like.leaves.size());
  plan_.outputs.push_back(std::move(output));
  return plan_.outputs.size() - 1;
}

/// Where the leaf begins in its output; nothing, and error_ set, if there is no such array.
std::optional<PlanWork::Spot> PlanWork::add_leaf(std::size_t output, DType dtype, std::span<const std::int64_t> shape) {
  PlannedOutput& made = plan_.outputs[output];
  const std::uint64_t begin = aligned(made.bytes);
  // The segment is known only when the result has its memory.
  constexpr muster::ipc::SegmentId some_segment{1};
  auto added = made.manifest.add(some_segment, begin, dtype, shape, made.device);
  if (!added || made.manifest.leaves.back().bytes() > output_bytes_max - begin) return refuse_size();
  Leaf& leaf = made.manifest.leaves.back();
  leaf.segment = {};
  if (leaf.bytes() == 0) {
    leaf.offset = 0;
    return Spot{output, 0};
  }
  made.bytes = begin + leaf.bytes();
  return Spot{output, begin};
}

/// Room for what a device folds and gives away, or is brought.
PlanWork::Spot PlanWork::scratch(std::size_t device, std::uint64_t bytes) {
  scratch_.resize(plan_.devices.size());
  if (!scratch_[device]) {
    scratch_[device] = plan_.outputs.size();
    PlannedOutput output;
    output.device = plan_.devices[device];
    output.is_scratch = true;
    plan_.outputs.push_back(std::move(output));
  }
  PlannedOutput& output = plan_.outputs[*scratch_[device]];
  const std::uint64_t begin = aligned(output.bytes);
  if (bytes > output_bytes_max - begin) return refuse_size(), Spot{*scratch_[device], 0};
  output.bytes = begin + bytes;
  return {*scratch_[device], begin};
}

void PlanWork::refuse_places(Device one, Device other) {
  error_ = Error(Code::invalid, fmt::format("{} has arrays on {} and on {}", op_.name, name(one), name(other)),
                 "give arrays of one device in one object");
}

std::nullopt_t PlanWork::refuse_size() {
  error_ =
      Error(Code::invalid, op_.name + " would make a result that is too large for any memory", "give smaller arrays");
  return std::nullopt;
}

}  // namespace musterd
