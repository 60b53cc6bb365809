#include "gpu/worker/nccl_thread.hpp"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "gpu/nccl_config.hpp"

namespace musterd::gpu {

using cuda::Status;
using muster::Code;
using muster::DType;
using muster::Error;
using muster::Result;
using std::chrono::microseconds;

namespace {

/// How often the thread looks whether something has ended: first often, then every millisecond.
constexpr microseconds first_nap{20};
constexpr microseconds last_nap{1000};

/// So many calls are begun together at most.
constexpr std::size_t group_calls_max = 512;

nccl::DataType nccl_type(DType dtype) {
  switch (dtype) {
    case DType::int8: return nccl::DataType::int8;
    case DType::uint8: return nccl::DataType::uint8;
    case DType::int32: return nccl::DataType::int32;
    case DType::uint32: return nccl::DataType::uint32;
    case DType::int64: return nccl::DataType::int64;
    case DType::uint64: return nccl::DataType::uint64;
    case DType::float16: return nccl::DataType::float16;
    case DType::bfloat16: return nccl::DataType::bfloat16;
    case DType::float64: return nccl::DataType::float64;
    default: return nccl::DataType::float32;
  }
}

nccl::ReduceOp nccl_op(muster::ReduceOp op) {
  switch (op) {
    case muster::ReduceOp::prod: return nccl::ReduceOp::prod;
    case muster::ReduceOp::min: return nccl::ReduceOp::min;
    case muster::ReduceOp::max: return nccl::ReduceOp::max;
    default: return nccl::ReduceOp::sum;
  }
}

void* pointer(cuda::Address address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

Error given_up() {
  return {Code::failed, "the GPUs that work together were parted, as one of them failed", "call it again"};
}

}  // namespace

NcclThread::NcclThread(const cuda::Driver& driver, cuda::Device device, NcclPlaces places, Outside outside)
    : driver_(driver), places_(std::move(places)), outside_(std::move(outside)), kernels_(driver, device) {}

// ---- what the daemon asks for ----

void NcclThread::add(Item item) {
  const std::lock_guard lock(mutex_);
  items_.push_back(std::move(item));
  if (!std::exchange(is_started_, true)) {
    driver_.ctx_get_current(&context_);
    std::thread([this] { run(); }).detach();
  }
  more_.notify_one();
}

void NcclThread::name(std::uint64_t communicator) { add(Name{communicator}); }

void NcclThread::join(std::uint64_t communicator, std::uint32_t ranks, std::uint32_t rank,
                      std::span<const std::uint8_t> id) {
  add(Join{communicator, static_cast<int>(ranks), static_cast<int>(rank), {id.begin(), id.end()}});
}

void NcclThread::exchange(JobExchange job) { add(std::move(job)); }

void NcclThread::leave(std::uint64_t communicator) { add(Leave{communicator}); }

void NcclThread::abort(std::uint64_t communicator) {
  const std::lock_guard lock(mutex_);
  std::erase_if(items_, [&](const Item& item) {
    const bool is_of_it = std::visit([&](const auto& asked) { return asked.communicator == communicator; }, item);
    if (!is_of_it) return false;
    if (const auto* exchange = std::get_if<JobExchange>(&item)) ended_.push_back({exchange->job, given_up()});
    return true;
  });
  if (!is_started_) return say_left(communicator);
  given_up_.push_back(communicator);
  more_.notify_one();
}

std::vector<ExchangeEnd> NcclThread::take_ended() {
  const std::lock_guard lock(mutex_);
  return std::exchange(ended_, {});
}

std::optional<Error> NcclThread::lost() {
  const std::lock_guard lock(mutex_);
  return lost_;
}

// ---- the thread of NCCL ----

void NcclThread::run() {
  if (auto current = checked("cuCtxSetCurrent", driver_.ctx_set_current(context_)); !current)
    return lose(current.error());
  if (auto made = checked("cuStreamCreate", driver_.stream_create(&stream_, cuda::stream_non_blocking)); !made)
    return lose(made.error());
  microseconds nap = first_nap;
  while (!lost()) {
    auto next = next_item(nap);
    for (auto& item : next) std::visit([&](auto& asked) { handle(asked); }, item);
    nap = next.empty() ? std::min(2 * nap, last_nap) : first_nap;
    look();
  }
}

/// Waits so long at most while jobs run, and for what comes otherwise.
NcclThread::Items NcclThread::next_item(microseconds patience) {
  std::unique_lock lock(mutex_);
  const auto something = [&] { return !items_.empty() || !given_up_.empty(); };
  if (running_.empty()) more_.wait(lock, something);
  else more_.wait_for(lock, patience, something);
  Items next;
  if (!items_.empty() && given_up_.empty()) next.splice(next.end(), items_, items_.begin());
  return next;
}

/// NCCL is opened with the first communicator. What can't be found now may be there later.
Result<void> NcclThread::open() {
  if (nccl_) return {};
  auto [search, found] = open_nccl(nccl_candidates(places_));
  if (auto missing = nccl_error(search)) return *missing;
  nccl_ = std::move(found);
  return {};
}

void NcclThread::handle(const Name& asked) {
  nccl::UniqueId id{};
  auto made = open();
  if (made)
    if (const auto status = nccl_->get_unique_id(&id); status != nccl::Status::success)
      made = failed("ncclGetUniqueId", status);
  if (!made) return broken(asked.communicator, made.error());
  outside_.say(worker_frame(wire::Body_Named, [&](auto& fbb) {
    const auto bytes = fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(id.bytes.data()), id.bytes.size());
    return wire::CreateNamed(fbb, asked.communicator, bytes);
  }));
}

void NcclThread::handle(const Join& asked) {
  if (auto made = make(asked); !made) return broken(asked.communicator, made.error());
  outside_.say(worker_frame(wire::Body_Joined, [&](auto& fbb) { return wire::CreateJoined(fbb, asked.communicator); }));
  tell_memory(asked.communicator);
}

Result<void> NcclThread::make(const Join& asked) {
  if (auto opened = open(); !opened) return opened;
  nccl::UniqueId id{};
  if (asked.id.size() != id.bytes.size())
    return Error(Code::failed,
                 fmt::format("the communicator's id has {} bytes instead of {}", asked.id.size(), id.bytes.size()));
  std::memcpy(id.bytes.data(), asked.id.data(), id.bytes.size());
  auto config = nccl::make_config(nccl_->version);
  config.blocking = 0;
  auto& joined = joined_[asked.communicator];
  const auto status = nccl_->comm_init_rank_config(&joined.handle, asked.ranks, id, asked.rank, &config);
  return settled("ncclCommInitRankConfig", asked.communicator, status);
}

/// Waits for a call that is in progress. Meanwhile the communicator may be given up.
Result<void> NcclThread::settled(const char* call, std::uint64_t communicator, nccl::Status status) {
  microseconds nap = first_nap;
  while (status == nccl::Status::in_progress) {
    std::this_thread::sleep_for(nap);
    nap = std::min(2 * nap, last_nap);
    look();
    const auto found = joined_.find(communicator);
    if (found == joined_.end()) return given_up();
    if (const auto asked = nccl_->comm_get_async_error(found->second.handle, &status); asked != nccl::Status::success)
      status = asked;
  }
  if (status == nccl::Status::success) return {};
  return failed(call, status);
}

void NcclThread::handle(const Leave& asked) {
  const auto found = joined_.find(asked.communicator);
  if (found == joined_.end()) return say_left(asked.communicator);
  const auto handle = found->second.handle;
  const auto finalized = settled("ncclCommFinalize", asked.communicator, nccl_->comm_finalize(handle));
  if (!joined_.contains(asked.communicator)) return;  // it was aborted meanwhile
  if (!finalized) return abort_one(asked.communicator);
  joined_.erase(asked.communicator);
  nccl_->comm_destroy(handle);
  say_left(asked.communicator);
}

// ---- exchanges ----

/// What NCCL has begun may run on, so a job that fails here is over only with that.
void NcclThread::handle(JobExchange& asked) {
  const auto found = joined_.find(asked.communicator);
  if (found == joined_.end() || found->second.is_broken) return ended(asked.job, given_up());
  Running running;
  running.job = asked.job;
  running.communicator = asked.communicator;
  running.outcome = enqueue(asked, running.tables);
  if (running.outcome) tell_memory(asked.communicator);
  else broken(asked.communicator, running.outcome.error());
  // Without an event nobody would know when the job is over.
  if (auto made = checked("cuEventCreate", driver_.event_create(&running.event, cuda::event_disable_timing)); !made)
    return lose(made.error());
  if (auto recorded = checked("cuEventRecord", driver_.event_record(running.event, stream_)); !recorded)
    return lose(recorded.error());
  running_.push_back(std::move(running));
}

Result<void> NcclThread::enqueue(JobExchange& asked, std::vector<PinnedTable>& tables) {
  if (auto waits = checked("cuStreamWaitEvent", driver_.stream_wait_event(stream_, asked.after, 0)); !waits)
    return waits;
  for (auto left = std::span(asked.steps); !left.empty();) {
    const auto some = left.first(std::min(left.size(), group_calls_max));
    left = left.subspan(some.size());
    if (auto reduced = reduce(some, asked.communicator); !reduced) return reduced;
  }
  for (const auto& step : asked.steps)
    if (auto divided = divide(step, tables); !divided) return divided;
  for (auto next = asked.transfers.begin(); next != asked.transfers.end();) {
    const auto first = next;
    next = std::find_if(first, asked.transfers.end(), [&](const auto& step) { return step.group != first->group; });
    if (auto transferred = transfer({first, next}, asked.communicator); !transferred) return transferred;
  }
  for (auto& last : asked.last)
    if (auto launched = launch(last, tables); !launched) return launched;
  return {};
}

Result<void> NcclThread::reduce(std::span<const ExchangeStep> steps, std::uint64_t communicator) {
  const auto handle = joined_.at(communicator).handle;
  const char* const name = steps.front().root == ExchangeStep::everyone ? "ncclAllReduce" : "ncclReduce";
  return together(name, steps, communicator, [&](const ExchangeStep& step) {
    const auto type = nccl_type(step.dtype);
    const auto op = nccl_op(step.op);
    if (step.root == ExchangeStep::everyone)
      return nccl_->all_reduce(pointer(step.from), pointer(step.to), step.count, type, op, handle, stream_);
    return nccl_->reduce(pointer(step.from), pointer(step.to), step.count, type, op, step.root, handle, stream_);
  });
}

Result<void> NcclThread::transfer(std::span<const TransferStep> steps, std::uint64_t communicator) {
  const auto handle = joined_.at(communicator).handle;
  return together("ncclSend or ncclRecv", steps, communicator, [&](const TransferStep& step) {
    constexpr auto bytes = nccl::DataType::uint8;
    if (step.sends) return nccl_->send(pointer(step.address), step.bytes, bytes, step.peer, handle, stream_);
    return nccl_->recv(pointer(step.address), step.bytes, bytes, step.peer, handle, stream_);
  });
}

/// Begins these calls together. A call that fails fails its group, which has to be ended all the same.
template <class Step, class Call>
Result<void> NcclThread::together(const char* name, std::span<const Step> steps, std::uint64_t communicator,
                                  const Call& call) {
  if (const auto status = nccl_->group_start(); status != nccl::Status::success)
    return failed("ncclGroupStart", status);
  nccl::Status first = nccl::Status::success;
  for (const auto& step : steps) {
    const auto status = call(step);
    if (first == nccl::Status::success && status != nccl::Status::in_progress) first = status;
  }
  const auto ended = nccl_->group_end();
  if (first != nccl::Status::success) return failed(name, first);
  return settled(name, communicator, ended);
}

/// A mean is the sum, divided by the number of all ranks.
Result<void> NcclThread::divide(const ExchangeStep& step, std::vector<PinnedTable>& tables) {
  if (step.divisor == 1 || step.to == 0) return {};
  const kernels::Address to = step.to;
  const kernels::FoldCall call{step.dtype,        muster::ReduceOp::mean, step.count,
                               std::span(&to, 1), std::span(&to, 1),      step.divisor};
  auto made = kernels::launch_fold(call, kernels_.gpu());
  if (!made) return made.error();
  return launch(*made, tables);
}

Result<void> NcclThread::launch(kernels::Launch& made, std::vector<PinnedTable>& tables) {
  const auto [name, status] = kernels_.launch(made, stream_, tables);
  return checked(name, status);
}

/// NCCL takes memory when a communicator is made, and more with the first ops of each kind.
void NcclThread::tell_memory(std::uint64_t communicator) {
  const auto found = joined_.find(communicator);
  if (found == joined_.end() || !nccl_->comm_mem_stats) return;
  std::uint64_t bytes = 0;
  const auto status = nccl_->comm_mem_stats(found->second.handle, nccl::MemoryStat::total, &bytes);
  if (status != nccl::Status::success || bytes == std::exchange(found->second.bytes, bytes)) return;
  outside_.say(worker_frame(wire::Body_Took, [&](auto& fbb) { return wire::CreateTook(fbb, communicator, bytes); }));
}

// ---- what goes on meanwhile ----

void NcclThread::look() {
  poll_running();
  poll_errors();
  abort_given_up();
}

void NcclThread::poll_running() {
  for (auto next = running_.begin(); next != running_.end();) {
    const auto each = next++;
    const Status status = driver_.event_query(each->event);
    if (status == Status::not_ready) continue;
    if (auto over = checked("cuEventQuery", status); !over) return lose(over.error());
    driver_.event_destroy(each->event);
    ended(each->job, std::move(each->outcome));
    running_.erase(each);
  }
}

/// A communicator that has failed may let its jobs hang. The daemon decides what becomes of it.
void NcclThread::poll_errors() {
  for (const auto& running : running_) {
    const auto found = joined_.find(running.communicator);
    if (found == joined_.end() || found->second.is_broken) continue;
    auto status = nccl::Status::success;
    if (const auto asked = nccl_->comm_get_async_error(found->second.handle, &status); asked != nccl::Status::success)
      status = asked;
    if (status != nccl::Status::success && status != nccl::Status::in_progress)
      broken(running.communicator, failed("NCCL", status));
  }
}

void NcclThread::abort_given_up() {
  const auto all = [&] {
    const std::lock_guard lock(mutex_);
    return std::exchange(given_up_, {});
  }();
  for (const auto communicator : all) abort_one(communicator);
}

/// What is not done by now is not done by the abort either, even if its stream goes on.
void NcclThread::abort_one(std::uint64_t communicator) {
  poll_running();
  for (auto& running : running_)
    if (running.communicator == communicator && running.outcome) running.outcome = given_up();
  const auto found = joined_.find(communicator);
  if (found != joined_.end()) {
    // An init that is in progress may write the handle until the abort has returned.
    if (found->second.handle) nccl_->comm_abort(found->second.handle);
    joined_.erase(found);
  }
  say_left(communicator);
}

void NcclThread::broken(std::uint64_t communicator, const Error& why) {
  if (const auto found = joined_.find(communicator); found != joined_.end()) found->second.is_broken = true;
  outside_.say(worker_frame(wire::Body_Broken, [&](auto& fbb) {
    const auto told = add_why(fbb, why);
    return wire::CreateBroken(fbb, communicator, told);
  }));
}

void NcclThread::say_left(std::uint64_t communicator) {
  outside_.say(worker_frame(wire::Body_Left, [&](auto& fbb) { return wire::CreateLeft(fbb, communicator); }));
}

void NcclThread::ended(std::uint64_t job, Result<void> outcome) {
  {
    const std::lock_guard lock(mutex_);
    ended_.push_back({job, std::move(outcome)});
  }
  outside_.wake();
}

Result<void> NcclThread::checked(const char* call, Status status) {
  if (status == Status::success) return {};
  Error why(Code::failed, fmt::format("{} failed: {}", call, driver_.describe(status)),
            "see what `nvidia-smi` says of the GPU; what was stored is still there");
  if (!cuda::leaves_context(status)) lose(why);
  return why;
}

/// This thread ends, and so does the worker.
void NcclThread::lose(const Error& why) {
  {
    const std::lock_guard lock(mutex_);
    if (!lost_) lost_ = why;
  }
  outside_.wake();
}

Error NcclThread::failed(const char* call, nccl::Status status) const {
  const char* const more = nccl_->get_last_error(nullptr);
  return {Code::failed,
          fmt::format("{} failed: {}{}{}", call, nccl_->get_error_string(status), more && *more ? ": " : "",
                      more ? more : ""),
          "NCCL_DEBUG=INFO in the daemon's environment says more; what was stored is still there"};
}

}  // namespace musterd::gpu
