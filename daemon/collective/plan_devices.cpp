// What a planner adds if the inputs lie on several devices: reductions and transfers between these, and the folds of
// what has been transferred.
#include <algorithm>
#include <utility>

#include "collective/exchange.hpp"
#include "collective/plan_work.hpp"

namespace musterd {

using muster::Device;
using muster::DType;
using muster::ReduceOp;
using muster::ipc::Leaf;
using muster::ipc::Manifest;

namespace {

/// A device has at most so many calls of NCCL under way together.
constexpr std::size_t group_transfers_max = 512;

/// A sum of float16 may be too large for it where the mean is not. So each device divides what it gives.
bool divides_first(DType result) { return result == DType::float16; }

}  // namespace

std::vector<Column> PlanWork::by_device(const Column& inputs) const {
  std::vector<Column> found(plan_.devices.size());
  for (std::size_t rank = 0; rank < inputs.size(); ++rank) found[index_of(homes_[rank])].push_back(inputs[rank]);
  return found;
}

std::size_t PlanWork::reduced_everywhere(const Column& inputs) {
  const Manifest& like = *inputs.front()->manifest;
  const auto there = by_device(inputs);
  const std::size_t first = plan_.outputs.size();
  for (const Device device : plan_.devices) add_output(like, device);
  Spots to(plan_.devices.size());
  for (std::size_t leaf = 0; leaf < like.leaves.size() && !error_; ++leaf) {
    for (std::size_t device = 0; device < to.size(); ++device) to[device] = add_reduced(first + device, like, leaf);
    add_reduction(there, leaf, to, Exchange::everyone);
  }
  return first;
}

std::size_t PlanWork::reduced_on(const Column& inputs, Device device) {
  const Manifest& like = *inputs.front()->manifest;
  const auto there = by_device(inputs);
  const std::size_t output = add_output(like, device);
  Spots to(plan_.devices.size());
  for (std::size_t leaf = 0; leaf < like.leaves.size() && !error_; ++leaf) {
    to[index_of(device)] = add_reduced(output, like, leaf);
    add_reduction(there, leaf, to, static_cast<std::uint16_t>(index_of(device)));
  }
  return output;
}

/// `inputs`: those of each device. `to`: where each device puts the result, if it gets it.
void PlanWork::add_reduction(std::span<const Column> inputs, std::size_t leaf, const Spots& to, std::uint16_t root) {
  const Leaf& like = inputs.front().front()->manifest->leaves[leaf];
  if (like.count == 0 || error_) return;
  if (const auto exchanged = exchanged_as(like.dtype, reduce_op_)) add_exchange(inputs, leaf, to, root, *exchanged);
  else add_reduction_by_transfers(inputs, leaf, to);
}

void PlanWork::add_exchange(std::span<const Column> inputs, std::size_t leaf, const Spots& to, std::uint16_t root,
                            const Exchanged& exchanged) {
  const Leaf& like = inputs.front().front()->manifest->leaves[leaf];
  const auto ranks = static_cast<std::uint32_t>(op_.contributions.size());
  const bool mean = reduce_op_ == ReduceOp::mean;
  const bool divides_before = mean && divides_first(exchanged.dtype);
  const std::uint32_t fold_divisor = divides_before ? ranks : mean ? 1 : 0;
  plan_.work.exchanges.push_back({.first_part = static_cast<std::uint32_t>(plan_.work.parts.size()),
                                  .divisor = mean && !divides_before ? ranks : 1,
                                  .count = like.count * exchanged.each,
                                  .root = root,
                                  .dtype = exchanged.dtype,
                                  .op = exchanged.op});
  const std::uint64_t bytes = like.count * exchanged.each * muster::size_of(exchanged.dtype);
  for (std::size_t device = 0; device < inputs.size(); ++device) {
    ExchangePart part;
    auto spot = to[device];
    if (inputs[device].size() == 1 && exchanged.takes_inputs && !divides_before) {
      part.given = inputs[device].front()->place(leaf);
    } else {
      if (!spot) spot = scratch(device, bytes);
      add_fold(inputs[device], leaf, *spot, 0, fold_divisor);
    }
    if (spot) part.output = static_cast<std::uint32_t>(spot->output), part.offset = spot->offset;
    plan_.work.parts.push_back(part);
    plan_.work_bytes += 2 * bytes;
  }
}

/// NCCL has no such type or op. So each device that makes a result gets what the others have folded, and folds that in
/// the order of the devices.
void PlanWork::add_reduction_by_transfers(std::span<const Column> inputs, std::size_t leaf, const Spots& to) {
  const Leaf& like = inputs.front().front()->manifest->leaves[leaf];
  const DType result = muster::result_dtype(like.dtype, reduce_op_).value_or(like.dtype);
  const std::uint64_t bytes = like.count * muster::size_of(result);
  std::vector<Source> folded;
  for (std::size_t device = 0; device < inputs.size(); ++device) {
    if (inputs[device].size() == 1 && result == like.dtype) {
      folded.push_back({.given = inputs[device].front()->place(leaf)});
      continue;
    }
    const Spot spot = to[device] ? *to[device] : scratch(device, bytes);
    add_fold(inputs[device], leaf, spot, 0);
    folded.push_back({.output = static_cast<std::uint32_t>(spot.output), .offset = spot.offset});
  }
  for (std::size_t device = 0; device < to.size(); ++device) {
    if (!to[device]) continue;
    Fold last{.count = like.count,
              .first_input = next_last_input(),
              .ranks = static_cast<std::uint16_t>(inputs.size()),
              .dtype = result,
              .op = reduce_op_};
    for (std::size_t from = 0; from < inputs.size(); ++from)
      plan_.work.last_inputs.push_back(brought(folded[from], from, device, bytes));
    add_last_fold(last, *to[device]);
  }
}

/// Each device folds what it has and what it is brought of all ranks up to the last one that gets a prefix there, in
/// their order. `to`: the prefix of rank `skipped`, whose output those of the other ranks follow.
void PlanWork::add_scan_by_transfers(const Column& inputs, std::size_t leaf, Spot to, std::span<const Device> devices,
                                     std::size_t skipped) {
  const Leaf& like = inputs.front()->manifest->leaves[leaf];
  for (const Device device : plan_.devices) {
    std::size_t end = inputs.size();
    while (end > skipped && devices[end - 1] != device) --end;
    if (end == skipped) continue;
    Fold fold{.count = like.count, .first_input = next_last_input(), .dtype = like.dtype, .op = reduce_op_};
    for (std::size_t rank = 0; rank < end; ++rank)
      plan_.work.last_inputs.push_back(
          brought({.given = inputs[rank]->place(leaf)}, index_of(homes_[rank]), index_of(device), like.bytes()));
    for (std::size_t rank = skipped; rank < end; ++rank) {
      if (devices[rank] != device) continue;
      // Ranks of this device that follow each other take one fold.
      const std::size_t first = rank;
      while (rank + 1 < end && devices[rank + 1] == device) ++rank;
      fold.ranks = static_cast<std::uint16_t>(rank + 1);
      fold.prefixes = static_cast<std::uint32_t>(rank + 1 - first);
      add_last_fold(fold, {to.output + first - skipped, to.offset});
    }
  }
}

std::uint32_t PlanWork::next_last_input() const { return static_cast<std::uint32_t>(plan_.work.last_inputs.size()); }

/// What a device has of this source: the source itself if it lies there, else a copy in scratch memory.
Source PlanWork::brought(const Source& source, std::size_t from, std::size_t to, std::uint64_t bytes) {
  if (from == to) return source;
  const Spot spot = scratch(to, bytes);
  add_transfer(source, from, to, spot, bytes);
  return {.output = static_cast<std::uint32_t>(spot.output), .offset = spot.offset};
}

void PlanWork::add_transfer(const Source& source, std::size_t from, std::size_t to, Spot spot, std::uint64_t bytes) {
  plan_.work.transfers.push_back(
      {.source = source,
       .output = static_cast<std::uint32_t>(spot.output),
       .from = static_cast<std::uint16_t>(from),
       .to = static_cast<std::uint16_t>(to),
       .offset = spot.offset,
       .bytes = bytes,
       .group = static_cast<std::uint32_t>(plan_.work.transfers.size() / group_transfers_max)});
  plan_.work_bytes += 2 * bytes;
}

void PlanWork::add_last_fold(Fold fold, Spot to) {
  fold.output = static_cast<std::uint32_t>(to.output);
  fold.offset = to.offset;
  plan_.work.last_folds.push_back(fold);
  const auto result = muster::result_dtype(fold.dtype, fold.op).value_or(fold.dtype);
  plan_.work_bytes += fold.count * (muster::size_of(fold.dtype) * fold.ranks +
                                    muster::size_of(result) * std::max<std::uint64_t>(fold.prefixes, 1));
}

}  // namespace musterd
