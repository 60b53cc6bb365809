#include "gpu/worker/jobs.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace musterd::gpu {

using cuda::Status;
using muster::Code;
using muster::Error;
using muster::Result;

namespace {

/// The root of an exchange of which all get the result: see Exchange in collective/plan.hpp.
constexpr std::uint16_t everyone = UINT16_MAX;

template <class Item>
void append(std::vector<Item>& to, const flatbuffers::Vector<const Item*>* from) {
  if (!from) return;
  to.reserve(to.size() + from->size());
  for (const Item* item : *from) to.push_back(*item);
}

}  // namespace

Jobs::Jobs(const cuda::Driver& driver, cuda::Device device, const DeviceSegments& segments, NcclThread& nccl,
           Ended ended)
    : driver_(driver), segments_(segments), nccl_(nccl), kernels_(driver, device), ended_(std::move(ended)) {}

Jobs::~Jobs() {
  for (const auto& running : running_) driver_.event_destroy(running.event);
  for (auto* stream : streams_)
    if (stream) driver_.stream_destroy(stream);
}

Result<void> Jobs::open() {
  for (auto& stream : streams_)
    if (auto made = checked("cuStreamCreate", driver_.stream_create(&stream, cuda::stream_non_blocking)); !made)
      return made;
  return {};
}

Result<void> Jobs::checked(const char* call, Status status) {
  if (status == Status::success) return {};
  Error why(Code::failed, fmt::format("{} failed: {}", call, driver_.describe(status)),
            "see what `nvidia-smi` says of the GPU; what was stored is still there");
  if (!cuda::leaves_context(status) && !lost_) lost_ = why;
  return why;
}

void Jobs::add(const wire::Job& part) {
  if (parts_.job != part.job()) parts_ = {};  // the daemon gave the other one up
  parts_.job = part.job();
  append(parts_.inputs, part.inputs());
  append(parts_.outputs, part.outputs());
  append(parts_.folds, part.folds());
  append(parts_.copies, part.copies());
  append(parts_.exchanges, part.exchanges());
  append(parts_.transfers, part.transfers());
  append(parts_.last_inputs, part.last_inputs());
  append(parts_.last_folds, part.last_folds());
  parts_.communicator = part.communicator();
  parts_.rank = part.rank();
  if (!part.more()) begin(std::exchange(parts_, {}));
}

/// What was begun of a job that fails still runs, so the job is over only with that.
void Jobs::begin(const Parts& whole) {
  auto* const stream = streams_[next_stream_++ % streams_count];
  Running running;
  running.job = whole.job;
  auto between = exchange(whole);
  running.outcome = between ? enqueue(whole, stream, running.tables) : between.error();
  const auto recorded = [&]() -> Result<void> {
    if (auto made = checked("cuEventCreate", driver_.event_create(&running.event, cuda::event_disable_timing)); !made)
      return made;
    return checked("cuEventRecord", driver_.event_record(running.event, stream));
  }();
  if (!recorded) {
    if (running.event) driver_.event_destroy(running.event);
    if (lost_) return;  // the end of this process ends the job
    static_cast<void>(checked("cuStreamSynchronize", driver_.stream_synchronize(stream)));
    return ended_(whole.job, running.outcome ? recorded : running.outcome);
  }
  running.is_exchanging = whole.communicator != 0 && running.outcome;
  running_.push_back(std::move(running));
  if (!running_.back().is_exchanging) return;
  between->after = running_.back().event;
  nccl_.exchange(std::move(*between));
}

/// What the job does between GPUs, except for what it waits for.
Result<JobExchange> Jobs::exchange(const Parts& whole) {
  JobExchange made;
  made.job = whole.job;
  made.communicator = whole.communicator;
  made.steps.reserve(whole.exchanges.size());
  for (const auto& each : whole.exchanges) {
    auto found = step(whole, each);
    if (!found) return found.error();
    made.steps.push_back(*found);
  }
  made.transfers.reserve(whole.transfers.size());
  for (const auto& each : whole.transfers) {
    const auto address = segments_.address({each.place().segment()}, each.place().offset(), each.bytes());
    if (!address) return address.error();
    made.transfers.push_back({*address, each.bytes(), each.group(), each.peer(), each.sends()});
  }
  if (!whole.last_folds.empty())
    if (auto there = Kernels::there(); !there) return there.error();
  made.last.reserve(whole.last_folds.size());
  for (const auto& each : whole.last_folds) {
    auto launch = fold(whole, whole.last_inputs, each);
    if (!launch) return launch.error();
    made.last.push_back(std::move(*launch));
  }
  return made;
}

Result<ExchangeStep> Jobs::step(const Parts& whole, const wire::Exchange& exchange) const {
  if (exchange.dtype() >= muster::dtype_count || exchange.op() >= muster::reduce_op_count)
    return Error(Code::failed, "the job has an exchange of no dtype or op that there is");
  ExchangeStep step;
  step.count = exchange.count();
  step.dtype = static_cast<muster::DType>(exchange.dtype());
  step.op = static_cast<muster::ReduceOp>(exchange.op());
  step.divisor = exchange.divisor();
  const bool all = exchange.root() == everyone;
  if (!all) step.root = exchange.root();
  const std::uint64_t bytes = step.count * muster::size_of(step.dtype);
  const auto& given = exchange.given();
  const bool gets = all || exchange.root() == whole.rank;
  if (gets || given.segment() == 0) {
    const auto address = output_address(whole, exchange.output(), exchange.offset(), bytes);
    if (!address) return address.error();
    step.from = *address;
    if (gets) step.to = *address;
  }
  if (given.segment() != 0) {
    const auto address = segments_.address({given.segment()}, given.offset(), bytes);
    if (!address) return address.error();
    step.from = *address;
  }
  return step;
}

void Jobs::exchanged(const ExchangeEnd& end) {
  const auto found = std::ranges::find(running_, end.job, &Running::job);
  if (found == running_.end()) return;
  found->is_exchanging = false;
  found->outcome = end.outcome;
}

bool Jobs::busy() const {
  return std::ranges::any_of(running_, [](const Running& running) { return !running.is_exchanging; });
}

Result<void> Jobs::enqueue(const Parts& whole, cuda::Stream stream, std::vector<PinnedTable>& tables) {
  if (whole.copies.empty() && whole.folds.empty()) return {};
  if (auto there = Kernels::there(); !there) return there;
  const auto launch = [&](Result<kernels::Launch> made) -> Result<void> {
    if (!made) return made.error();
    const auto [call, status] = kernels_.launch(*made, stream, tables);
    return checked(call, status);
  };
  if (auto copied = launch(copies(whole)); !copied) return copied;
  for (const auto& each : whole.folds)
    if (auto folded = launch(fold(whole, whole.inputs, each)); !folded) return folded;
  return {};
}

Result<cuda::Address> Jobs::output_address(const Parts& whole, std::uint32_t output, std::uint64_t offset,
                                           std::uint64_t bytes) const {
  if (output >= whole.outputs.size())
    return Error(Code::failed, fmt::format("the job has {} outputs, and no number {}", whole.outputs.size(), output));
  const auto& place = whole.outputs[output];
  return segments_.address({place.segment()}, place.offset() + offset, bytes);
}

Result<kernels::Launch> Jobs::copies(const Parts& whole) {
  std::vector<kernels::Piece> pieces;
  pieces.reserve(whole.copies.size());
  for (const auto& copy : whole.copies) {
    const auto to = output_address(whole, copy.output(), copy.offset(), copy.bytes());
    if (!to) return to.error();
    const auto from = segments_.address({copy.source().segment()}, copy.source().offset(), copy.bytes());
    if (!from) return from.error();
    pieces.push_back({*from, *to, copy.bytes()});
  }
  return kernels::launch_copy(pieces, kernels_.gpu());
}

/// The numbers come from the daemon's plan; the bounds of the segments are checked nevertheless.
Result<kernels::Launch> Jobs::fold(const Parts& whole, const std::vector<wire::Place>& from, const wire::Fold& fold) {
  if (fold.dtype() >= muster::dtype_count || fold.op() >= muster::reduce_op_count || fold.first_input() > from.size() ||
      fold.inputs() > from.size() - fold.first_input())
    return Error(Code::failed, fmt::format("the job has {} inputs, and its fold reads {} from number {} on",
                                           from.size(), fold.inputs(), fold.first_input()));
  const auto dtype = static_cast<muster::DType>(fold.dtype());
  const auto op = static_cast<muster::ReduceOp>(fold.op());
  std::vector<kernels::Address> inputs;
  for (std::uint32_t i = 0; i < fold.inputs(); ++i) {
    const auto& place = from[fold.first_input() + i];
    const auto address = segments_.address({place.segment()}, place.offset(), fold.count() * muster::size_of(dtype));
    if (!address) return address.error();
    inputs.push_back(*address);
  }
  std::vector<kernels::Address> outputs;
  const auto of_result = muster::result_dtype(dtype, op);
  if (!of_result)
    return Error(Code::failed, fmt::format("the job folds {} by {}, which is nothing", name(dtype), name(op)));
  const std::uint64_t output_bytes = fold.count() * muster::size_of(*of_result);
  for (std::uint32_t i = 0; i < std::max(fold.prefixes(), 1U); ++i) {
    const auto address = output_address(whole, fold.output() + i, fold.offset(), output_bytes);
    if (!address) return address.error();
    outputs.push_back(*address);
  }
  return kernels::launch_fold({dtype, op, fold.count(), inputs, outputs, fold.divisor()}, kernels_.gpu());
}

/// Jobs of one stream end in their order, and those of others need not.
void Jobs::poll() {
  for (auto next = running_.begin(); next != running_.end() && !lost_;) {
    const auto each = next++;
    if (each->is_exchanging) continue;
    const Status status = driver_.event_query(each->event);
    if (status == Status::not_ready) continue;
    if (!checked("cuEventQuery", status)) return;  // of work before it: the context is lost
    driver_.event_destroy(each->event);
    const Running over = std::move(*each);
    running_.erase(each);
    ended_(over.job, over.outcome);
  }
}

}  // namespace musterd::gpu
