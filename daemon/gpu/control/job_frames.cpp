#include "gpu/control/job_frames.hpp"

#include <algorithm>
#include <span>

#include "gpu/control/device_memory.hpp"

namespace musterd::gpu {

namespace {

wire::Place wire_of(const Place& place) {
  if (!place.memory) return {};
  return {static_cast<const DeviceMemory*>(place.memory)->id().value, place.offset};
}

/// What is left of a list, to be taken in stretches that fit into a packet together with others.
template <class Item>
std::span<const Item> take(std::span<const Item>& left, std::size_t& room, std::size_t bytes_each) {
  const std::size_t count = std::min(left.size(), room / bytes_each);
  const auto taken = left.first(count);
  left = left.subspan(count);
  room -= count * bytes_each;
  return taken;
}

/// What has not gone into a frame yet.
struct Left {
  std::span<const Place> inputs;
  std::span<const Place> outputs;
  std::span<const Fold> folds;
  std::span<const CopyBytes> copies;
  std::span<const Exchange> exchanges;
  std::span<const Transfer> transfers;
  std::span<const Source> last_inputs;
  std::span<const Fold> last_folds;
  [[nodiscard]] bool any() const {
    return !inputs.empty() || !outputs.empty() || !folds.empty() || !copies.empty() || !exchanges.empty() ||
           !transfers.empty() || !last_inputs.empty() || !last_folds.empty();
  }
};

wire::Exchange wire_of(const Exchange& exchange, const ExchangePart& part) {
  return {wire_of(part.given),
          part.output,
          exchange.divisor,
          part.offset,
          exchange.count,
          exchange.root,
          static_cast<std::uint8_t>(exchange.dtype),
          static_cast<std::uint8_t>(exchange.op)};
}

wire::Fold wire_of(const Fold& fold) {
  return {fold.first_input,
          fold.ranks,
          fold.prefixes,
          fold.divisor,
          static_cast<std::uint8_t>(fold.dtype),
          static_cast<std::uint8_t>(fold.op),
          fold.offset,
          fold.count,
          fold.output};
}

wire::Copy wire_of(const CopyBytes& copy) {
  return {static_cast<std::uint32_t>(copy.output), copy.offset, wire_of(copy.source), copy.bytes};
}

wire::Transfer wire_of(const Transfer& transfer, const Job& job, std::uint32_t rank) {
  const bool sends = transfer.from == rank;
  const Place place = sends ? transfer.source.given : job.outputs[transfer.output] + transfer.offset;
  return {wire_of(place), transfer.bytes, transfer.group, sends ? transfer.to : transfer.from, sends};
}

bool lies_on(const Place& place, muster::Device device) {
  return place.memory && static_cast<const DeviceMemory*>(place.memory)->device() == device;
}

WorkerFrame next_frame(const Job& job, CommunicatorSeat seat, Left& left) {
  std::size_t room = worker_packet_bytes_max - 1024;  // without the tables around the lists
  // As many as fit of what is left of a list, each as the worker reads it.
  const auto some = [&]<class Wire, class Item>(std::vector<Wire>& into, std::span<const Item>& from, const auto& as) {
    for (const auto& item : take(from, room, sizeof(Wire))) into.push_back(as(item));
  };
  const auto as_it_is = [](const auto& item) { return wire_of(item); };
  const auto exchange_of = [&](const Exchange& each) { return wire_of(each, job.work.parts[each.first_part]); };
  const auto transfer_of = [&](const Transfer& each) { return wire_of(each, job, seat.rank); };
  const auto source_of = [](const Source& each) { return wire_of(each.given); };
  std::vector<wire::Place> inputs;
  std::vector<wire::Place> outputs;
  std::vector<wire::Fold> folds;
  std::vector<wire::Copy> copies;
  std::vector<wire::Exchange> exchanges;
  std::vector<wire::Transfer> transfers;
  std::vector<wire::Place> last_inputs;
  std::vector<wire::Fold> last_folds;
  some(inputs, left.inputs, as_it_is);
  some(outputs, left.outputs, as_it_is);
  some(folds, left.folds, as_it_is);
  some(copies, left.copies, as_it_is);
  some(exchanges, left.exchanges, exchange_of);
  some(transfers, left.transfers, transfer_of);
  some(last_inputs, left.last_inputs, source_of);
  some(last_folds, left.last_folds, as_it_is);
  return worker_frame(wire::Body_Job, [&](auto& fbb) {
    return wire::CreateJobDirect(fbb, job.id, &inputs, &outputs, &folds, &copies, &exchanges, &transfers, &last_inputs,
                                 &last_folds, seat.communicator, seat.rank, left.any());
  });
}

/// What of this part lies in an output becomes a place.
Source placed(const Source& source, const Job& part) {
  if (source.given.memory) return source;
  return {.given = part.outputs[source.output] + source.offset};
}

void add_transfers(Job& part, const Job& whole, std::uint32_t rank) {
  for (Transfer transfer : whole.work.transfers) {
    if (transfer.from != rank && transfer.to != rank) continue;
    if (transfer.from == rank) transfer.source = placed(transfer.source, part);
    part.work.transfers.push_back(transfer);
  }
}

/// Folds that share inputs follow each other, and the last of them reads most.
void add_last_folds(Job& part, const Job& whole) {
  const auto& inputs = whole.work.last_inputs;
  std::size_t first_of_whole = inputs.size();
  std::size_t first_of_part = 0;
  for (Fold fold : whole.work.last_folds) {
    if (!part.outputs[fold.output].memory) continue;
    if (fold.first_input != first_of_whole) first_of_part = part.work.last_inputs.size();
    first_of_whole = fold.first_input;
    for (std::size_t i = part.work.last_inputs.size() - first_of_part; i < fold.ranks; ++i)
      part.work.last_inputs.push_back(placed(inputs[first_of_whole + i], part));
    fold.first_input = static_cast<std::uint32_t>(first_of_part);
    part.work.last_folds.push_back(fold);
  }
}

}  // namespace

Job part_of(const Job& whole, std::uint32_t rank) {
  const auto device = whole.devices[rank];
  Job part;
  part.id = whole.id;
  part.process = whole.process;
  part.devices.push_back(device);
  for (const auto& output : whole.outputs) part.outputs.push_back(lies_on(output, device) ? output : Place{});
  for (Fold fold : whole.work.folds) {
    if (!part.outputs[fold.output].memory) continue;
    const auto inputs =
        std::span(whole.work.inputs.begin(), whole.work.inputs.end()).subspan(fold.first_input, fold.ranks);
    fold.first_input = static_cast<std::uint32_t>(part.work.inputs.size());
    part.work.inputs.insert(part.work.inputs.end(), inputs.begin(), inputs.end());
    part.work.folds.push_back(fold);
  }
  for (const auto& copy : whole.work.copies)
    if (part.outputs[copy.output].memory) part.work.copies.push_back(copy);
  for (Exchange exchange : whole.work.exchanges) {
    part.work.parts.push_back(whole.work.parts[exchange.first_part + rank]);
    exchange.first_part = static_cast<std::uint32_t>(part.work.parts.size() - 1);
    part.work.exchanges.push_back(exchange);
  }
  add_transfers(part, whole, rank);
  add_last_folds(part, whole);
  return part;
}

std::vector<WorkerFrame> job_frames(const Job& job, CommunicatorSeat seat) {
  const auto all = [](const auto& list) { return std::span(list.begin(), list.end()); };
  const Work& work = job.work;
  Left left{all(work.inputs),    all(job.outputs),    all(work.folds),       all(work.copies),
            all(work.exchanges), all(work.transfers), all(work.last_inputs), all(work.last_folds)};
  std::vector<WorkerFrame> frames;
  do frames.push_back(next_frame(job, seat, left));
  while (left.any());
  return frames;
}

}  // namespace musterd::gpu
