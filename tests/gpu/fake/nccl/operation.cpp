#include "operation.hpp"

#include <algorithm>
#include <cstring>
#include <set>

#include "kernels.h"

namespace fake_nccl {
namespace {

/// The work must end: its communicator was aborted, or its context is broken.
struct Stopped {};

struct Batch {
  std::shared_ptr<Communicator> communicator;
  std::vector<Operation> operations;
  Communicator::Turn turn;
};

class Run {
 public:
  explicit Run(Batch& batch) : batch_(batch), comm_(*batch.communicator) {}
  void run();

 private:
  [[nodiscard]] GiveUp give_up() {
    return [this] { return comm_.stopped() || muster_fake_gpu_must_end() != 0; };
  }
  [[nodiscard]] std::size_t rank() const { return static_cast<std::size_t>(comm_.rank()); }
  [[nodiscard]] std::size_t ranks() const { return static_cast<std::size_t>(comm_.ranks()); }
  /// Waits until it has to stop.
  [[noreturn]] void hang();
  void meet_injections(const Operation& operation);
  static Bytes read(const void* address, std::size_t bytes);
  static void write(void* address, const char* bytes, std::size_t size);
  Frame take(int peer, Topic topic);
  void send(const Operation& operation);
  void receive(const Operation& operation);
  void collect(const Operation& operation);
  [[nodiscard]] Bytes own_input(const Operation& operation) const;
  std::vector<Bytes> exchange(const Operation& operation);
  void finish(const Operation& operation, const std::vector<Bytes>& inputs);
  void reduce(const Operation& operation, const std::vector<Bytes>& inputs);
  /// Which rank a fold begins with; never 0 where there is a choice.
  [[nodiscard]] std::size_t begin_of(std::size_t part) const { return ranks() == 1 ? 0 : 1 + part % (ranks() - 1); }
  void spoil() const;

  Batch& batch_;
  Communicator& comm_;
};

void Run::hang() {
  const auto over = give_up();
  while (!over()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  throw Stopped{};
}

void Run::meet_injections(const Operation& operation) {
  const auto over = give_up();
  while (stalls(operation.injected.stalled_by)) {
    if (over()) throw Stopped{};
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  if (operation.injected.later == ncclSuccess) return;
  warn("the file inject says so");
  comm_.set_state(operation.injected.later);
  hang();
}

/// Memory that the device may not touch breaks the context when the work ends.
Bytes Run::read(const void* address, std::size_t bytes) {
  if (bytes == 0) return {};
  const auto* memory =
      static_cast<const char*>(muster_fake_gpu_host_address(reinterpret_cast<std::uintptr_t>(address), bytes, 0));
  if (memory == nullptr) throw Stopped{};
  return {memory, memory + bytes};
}

void Run::write(void* address, const char* bytes, std::size_t size) {
  if (size == 0) return;
  void* memory = muster_fake_gpu_host_address(reinterpret_cast<std::uintptr_t>(address), size, 1);
  if (memory == nullptr) throw Stopped{};
  std::memcpy(memory, bytes, size);
}

Frame Run::take(int peer, Topic topic) {
  auto frame = comm_.mesh().take(peer, topic, give_up());
  if (!frame) throw Stopped{};
  return std::move(*frame);
}

Signature signature_of(const Operation& operation) {
  Signature signature;
  signature.count = operation.count;
  signature.type = operation.type;
  if (!operation.collective()) return signature;
  signature.call = static_cast<std::int32_t>(operation.kind);
  signature.root = operation.root;
  if (operation.reduces()) signature.op = operation.factor ? ncclNumOps : operation.op;
  return signature;
}

void Run::send(const Operation& operation) {
  auto bytes = read(operation.from, operation.count * bytes_of(operation.type));
  comm_.mesh().post(operation.root, {Topic::message, signature_of(operation), std::move(bytes)});
}

// Two ends that differ in count or type are undefined in NCCL; here they never meet.
void Run::receive(const Operation& operation) {
  const auto frame = take(operation.root, Topic::message);
  if (frame.signature != signature_of(operation)) hang();
  write(operation.to, frame.payload.data(), frame.payload.size());
  comm_.mesh().post(operation.root, {Topic::taken, {}, {}});
}

Bytes Run::own_input(const Operation& operation) const {
  const bool is_root = operation.root == comm_.rank();
  const auto bytes = operation.count * bytes_of(operation.type);
  switch (operation.kind) {
    case Kind::broadcast: return is_root ? read(operation.from, bytes) : Bytes{};
    case Kind::scatter: return is_root ? read(operation.from, bytes * ranks()) : Bytes{};
    case Kind::all_to_all:
    case Kind::reduce_scatter: return read(operation.from, bytes * ranks());
    default: return read(operation.from, bytes);
  }
}

/// Every rank gives its input to all; so no rank is done before all have called.
std::vector<Bytes> Run::exchange(const Operation& operation) {
  auto signature = signature_of(operation);
  signature.sequence = comm_.next_collective();
  auto own = own_input(operation);
  if (operation.factor) {
    const auto& factor = *operation.factor;
    const auto scalar = factor.address != nullptr ? read(factor.address, bytes_of(factor.type)) : factor.scalar;
    multiply(own, scalar, operation.type);
  }
  for (int peer = 0; peer < comm_.ranks(); ++peer) comm_.mesh().post(peer, {Topic::collective, signature, own});
  std::vector<Bytes> inputs;
  for (int peer = 0; peer < comm_.ranks(); ++peer) {
    auto frame = take(peer, Topic::collective);
    if (frame.signature != signature) hang();
    inputs.push_back(std::move(frame.payload));
  }
  return inputs;
}

/// AllReduce folds in parts, each from another rank on, as a ring does; all ranks the same.
void Run::reduce(const Operation& operation, const std::vector<Bytes>& inputs) {
  const auto size = bytes_of(operation.type);
  const auto count = operation.count;
  Bytes result(count * size);
  if (operation.kind == Kind::reduce_scatter) {
    fold(inputs, begin_of(rank()), rank() * count, (rank() + 1) * count, operation.type, operation.op, result.data());
  } else if (operation.kind == Kind::reduce) {
    if (operation.root != comm_.rank()) return;
    fold(inputs, begin_of(rank()), 0, count, operation.type, operation.op, result.data());
  } else {
    for (std::size_t part = 0; part < ranks(); ++part) {
      const auto first = count * part / ranks(), last = count * (part + 1) / ranks();
      fold(inputs, begin_of(part), first, last, operation.type, operation.op, result.data() + first * size);
    }
  }
  write(operation.to, result.data(), result.size());
}

void Run::finish(const Operation& operation, const std::vector<Bytes>& inputs) {
  const auto bytes = operation.count * bytes_of(operation.type);
  const auto root = static_cast<std::size_t>(operation.root);
  auto* const to = static_cast<char*>(operation.to);
  const auto gather_all = [&](std::size_t offset) {
    for (std::size_t peer = 0; peer < ranks(); ++peer) write(to + peer * bytes, inputs[peer].data() + offset, bytes);
  };
  switch (operation.kind) {
    case Kind::broadcast: return write(to, inputs[root].data(), bytes);
    case Kind::scatter: return write(to, inputs[root].data() + rank() * bytes, bytes);
    case Kind::all_gather: return gather_all(0);
    case Kind::all_to_all: return gather_all(rank() * bytes);
    case Kind::gather: return root == rank() ? gather_all(0) : void();
    default: return reduce(operation, inputs);
  }
}

void Run::collect(const Operation& operation) {
  meet_injections(operation);
  finish(operation, exchange(operation));
}

/// After an abort, "nothing can be assumed about the correctness of operations": results are rubbish.
void Run::spoil() const {
  for (const auto& operation : batch_.operations) {
    const bool of_root = operation.kind == Kind::reduce || operation.kind == Kind::gather;
    if (operation.kind == Kind::send || (of_root && operation.root != comm_.rank())) continue;
    const auto bytes = operation.count * bytes_of(operation.type);
    void* memory = muster_fake_gpu_host_address(reinterpret_cast<std::uintptr_t>(operation.to), bytes, 1);
    if (memory != nullptr) std::memset(memory, 0xa5, bytes);
  }
}

void Run::run() {
  if (!comm_.begin(batch_.turn, give_up())) return;
  try {
    for (const auto& operation : batch_.operations)
      if (!operation.collective()) meet_injections(operation);
    for (const auto& operation : batch_.operations)
      if (operation.kind == Kind::send) send(operation);
    for (const auto& operation : batch_.operations)
      if (operation.kind == Kind::recv) receive(operation);
    for (const auto& operation : batch_.operations)
      if (operation.kind == Kind::send) static_cast<void>(take(operation.root, Topic::taken));
    for (const auto& operation : batch_.operations)
      if (operation.collective()) collect(operation);
  } catch (const Stopped&) {
    if (comm_.stopped()) spoil();
  }
  comm_.end(batch_.turn);
}

int run_batch(void* argument) {
  const std::unique_ptr<Batch> batch(static_cast<Batch*>(argument));
  Run(*batch).run();
  return CUDA_SUCCESS;
}

class OrderingEvent {
 public:
  OrderingEvent() { require_cuda(cuEventCreate(&event_, CU_EVENT_DISABLE_TIMING), "cuEventCreate"); }
  OrderingEvent(const OrderingEvent&) = delete;
  OrderingEvent& operator=(const OrderingEvent&) = delete;
  ~OrderingEvent() { cuEventDestroy(event_); }
  void order(CUstream before, CUstream after) {
    require_cuda(cuEventRecord(event_, before), "cuEventRecord");
    require_cuda(cuStreamWaitEvent(after, event_, CU_EVENT_WAIT_DEFAULT), "cuStreamWaitEvent");
  }

 private:
  CUevent event_ = nullptr;
};

}  // namespace

// "Mixing Multiple Streams within the same ncclGroupStart/End() group": the group waits for all of its streams, and all
// of them wait for the group.
void launch(const std::shared_ptr<Communicator>& communicator, std::vector<Operation> operations) {
  const InContext context(communicator->device().context);
  const auto first = operations.front().stream;
  std::set<CUstream> others;
  for (const auto& operation : operations)
    if (operation.stream != first) others.insert(operation.stream);
  for (const auto stream : others) OrderingEvent().order(stream, first);
  auto batch = std::make_unique<Batch>(Batch{communicator, std::move(operations), communicator->next_turn()});
  require_cuda(muster_fake_gpu_enqueue(first, &run_batch, batch.get()), "the launch");
  static_cast<void>(batch.release());
  for (const auto stream : others) OrderingEvent().order(first, stream);
}

}  // namespace fake_nccl
