// The clock does not run while a rank allocates and fills inputs, checks results, or stands in the barriers that let
// all ranks start and stop together. It runs while the rank seals, contributes, waits and maps, and does what the
// variant adds.
#include "rank.hpp"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <muster/client.hpp>

#include "../daemon/queries.hpp"
#include "link.hpp"
#include "values.hpp"
#include "workload.hpp"

namespace muster::cli {

namespace {

constexpr std::size_t page_bytes = 4096;

double microseconds_of(clockid_t clock) {
  timespec now{};
  if (::clock_gettime(clock, &now) != 0) return 0;
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

/// The processor time that this rank reports: its own, and on rank 0 also the daemon's.
class CpuClock {
 public:
  explicit CpuClock(pid_t daemon) {
    if (daemon <= 0 || ::clock_getcpuclockid(daemon, &daemon_) != 0) daemon_ = CLOCK_PROCESS_CPUTIME_ID;
    with_daemon_ = daemon_ != CLOCK_PROCESS_CPUTIME_ID;
  }
  [[nodiscard]] double microseconds() const {
    return microseconds_of(CLOCK_PROCESS_CPUTIME_ID) + (with_daemon_ ? microseconds_of(daemon_) : 0);
  }

 private:
  clockid_t daemon_ = CLOCK_PROCESS_CPUTIME_ID;
  bool with_daemon_ = false;
};

class Bench {
 public:
  Bench(const BenchOptions& options, Client client, Group group, CpuClock clock)
      : options_(options), client_(std::move(client)), group_(std::move(group)), clock_(clock) {}

  /// Begins to count the load here: what the ranks need to get ready must not count as other processes' load.
  Result<void> meet() {
    const auto met = wait(group_.barrier(op_options()));
    if (!met) return met.error();
    static_cast<void>(load_since_last());
    return {};
  }

  Result<SizeReport> measure(std::uint64_t bytes) {
    const Workload workload = Workload::of(options_, bytes);
    SizeReport report;
    std::vector<std::byte> own_memory = own_memory_for(workload);
    for (int number = 0; number < options_.warmups + options_.iterations; ++number) {
      auto sample = round(workload, own_memory, report.wrong);
      if (!sample) return sample.error();
      if (number >= options_.warmups) report.samples.push_back(*sample);
    }
    report.load = load_since_last();
    return report;
  }

 private:
  /// The load since the last call.
  Load load_since_last() {
    const double own_us = clock_.microseconds();
    Load load{0, 0, 0, own_us - std::exchange(counted_.own_us, own_us)};
    if (group_.rank() != 0) return load;
    const double now_us = microseconds_of(CLOCK_MONOTONIC);
    const double busy_us = busy_us_now();
    load.wall_us = now_us - std::exchange(counted_.wall_us, now_us);
    load.busy_us = busy_us - std::exchange(counted_.busy_us, busy_us);
    load.cores = usable_cores();
    return load;
  }

  /// For variant out. Touches the memory before the clock runs, as a program's own arrays have been touched, too.
  [[nodiscard]] std::vector<std::byte> own_memory_for(const Workload& workload) const {
    if (options_.variant != BenchVariant::out) return {};
    const DType dtype = result_dtype(options_.dtype, options_.redop).value_or(options_.dtype);
    return std::vector<std::byte>(workload.gets(group_.rank()).size() * workload.count * size_of(dtype));
  }

  Result<Sample> round(const Workload& workload, std::vector<std::byte>& own_memory, std::uint64_t& wrong) {
    const Round values{options_.dtype, options_.redop, options_.ranks, ++rounds_};
    auto buffers = fill_inputs(workload, values);
    if (!buffers) return buffers.error();
    const auto met = wait(group_.barrier(op_options()));
    if (!met) return met.error();

    const double cpu_before = clock_.microseconds();
    const double before = microseconds_of(CLOCK_MONOTONIC);
    auto results = collect(workload, std::move(*buffers), own_memory);
    const double after = microseconds_of(CLOCK_MONOTONIC);
    const double cpu_after = clock_.microseconds();
    if (!results) return results.error();
    // Checking takes cores from ranks whose clock still runs, so all ranks stop their clocks first.
    const auto stopped = wait(group_.barrier(op_options()));
    if (!stopped) return stopped.error();
    if (options_.check) wrong += check(workload, values, *results, own_memory);
    return Sample{after - before, cpu_after - cpu_before};
  }

  Result<std::vector<RawBuffer>> fill_inputs(const Workload& workload, const Round& values) {
    std::vector<RawBuffer> buffers;
    for (const Piece& piece : workload.gives(group_.rank())) {
      auto buffer = client_.allocate_raw(options_.dtype, {static_cast<std::int64_t>(workload.count)}, deadline());
      if (!buffer) return buffer.error();
      const std::span bytes(static_cast<std::byte*>(buffer->data()), workload.count * size_of(options_.dtype));
      fill(bytes, pattern(values, piece, workload.count));
      if (options_.plant_error && group_.rank() == workload.root) bytes.back() ^= std::byte{0x55};
      buffers.push_back(std::move(*buffer));
    }
    return buffers;
  }

  /// Waits for the results of sealed inputs and makes them readable.
  Result<std::vector<ArrayView>> collect(const Workload& workload, std::vector<RawBuffer> buffers,
                                         std::vector<std::byte>& own_memory) {
    std::vector<Ref> inputs;
    for (auto& buffer : buffers) {
      auto ref = std::move(buffer).seal();
      if (!ref) return ref.error();
      inputs.push_back(std::move(*ref));
    }
    auto outcome = contribute(workload, inputs);
    if (!outcome) return outcome.error();
    std::vector<ArrayView> views;
    for (const Ref& ref : outcome->refs) {
      auto leaves = ref.get();
      if (!leaves) return leaves.error();
      for (auto& leaf : *leaves) views.push_back(std::move(leaf));
    }
    read(views, own_memory);
    return views;
  }

  Result<Outcome> contribute(const Workload& workload, const std::vector<Ref>& inputs) {
    const Ref input = inputs.empty() ? Ref() : inputs[0];
    const int root = workload.root;
    switch (workload.op) {
      case BenchOp::allreduce: return wait(group_.allreduce(input, options_.redop, op_options()));
      case BenchOp::reduce: return wait(group_.reduce(input, root, options_.redop, op_options()));
      case BenchOp::broadcast: return wait(group_.broadcast(input, root, op_options()));
      case BenchOp::allgather: return wait(group_.allgather(input, false, op_options()));
      case BenchOp::gather: return wait(group_.gather(input, root, op_options()));
      case BenchOp::scatter: return wait(group_.scatter(inputs, root, op_options()));
      case BenchOp::reduce_scatter: return wait(group_.reduce_scatter(inputs, options_.redop, op_options()));
      case BenchOp::all_to_all: return wait(group_.all_to_all(inputs, false, op_options()));
      case BenchOp::sendrecv: return exchange(input);
      case BenchOp::barrier: return wait(group_.barrier(op_options()));
    }
    return Error(Code::invalid, "the collective is unknown");
  }

  /// Sends to the next rank and receives from the one before.
  Result<Outcome> exchange(const Ref& input) {
    const int ranks = group_.world_size();
    const auto sent = group_.send(input, (group_.rank() + 1) % ranks, 0, op_options());
    if (!sent) return sent.error();
    auto received = wait(group_.recv((group_.rank() + ranks - 1) % ranks, 0, op_options()));
    if (!received) return received.error();
    const auto over = sent->wait();
    if (!over) return over.error();
    return received;
  }

  void read(const std::vector<ArrayView>& views, std::vector<std::byte>& own_memory) const {
    std::size_t at = 0;
    for (const auto& view : views) {
      const auto bytes = view.span<std::byte>();
      if (options_.variant == BenchVariant::out && at + bytes.size() <= own_memory.size())
        std::memcpy(own_memory.data() + at, bytes.data(), bytes.size());
      if (options_.variant == BenchVariant::first_read)
        for (std::size_t page = 0; page < bytes.size(); page += page_bytes)
          static_cast<void>(*static_cast<const volatile std::byte*>(bytes.data() + page));
      at += bytes.size();
    }
  }

  /// Counts wrong elements in all results. If a result has a wrong size or dtype, all of its elements count.
  [[nodiscard]] std::uint64_t check(const Workload& workload, const Round& values, const std::vector<ArrayView>& views,
                                    const std::vector<std::byte>& own_memory) const {
    const auto expected = workload.gets(group_.rank());
    if (views.size() != expected.size()) return std::max<std::uint64_t>(1, workload.count * expected.size());
    std::uint64_t wrong = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const DType dtype = expected[i].folded ? *result_dtype(options_.dtype, options_.redop) : options_.dtype;
      if (views[i].dtype() != dtype || views[i].count() != workload.count) {
        wrong += workload.count;
        continue;
      }
      std::span<const std::byte> found = views[i].span<std::byte>();
      if (options_.variant == BenchVariant::out) found = std::span(own_memory).subspan(at, found.size());
      at += found.size();
      wrong += count_wrong(found, pattern(values, expected[i], workload.count), size_of(dtype));
    }
    return wrong;
  }

  static Result<Outcome> wait(const Result<Work>& work) {
    if (!work) return work.error();
    return work->wait();
  }

  [[nodiscard]] std::chrono::nanoseconds deadline() const {
    return std::chrono::nanoseconds(static_cast<std::int64_t>(options_.timeout_s * 1e9));
  }
  [[nodiscard]] OpOptions op_options() const { return {deadline(), {}}; }

  const BenchOptions& options_;
  Client client_;
  Group group_;
  CpuClock clock_;
  std::uint32_t rounds_ = 0;
  Load counted_;  ///< up to the last report
};

Result<void> measure_all(const BenchOptions& options, const BenchRank& place, const ipc::Fd& pipe) {
  ConnectOptions connect;
  connect.socket = options.socket;
  connect.memory = options.memory;
  connect.name = fmt::format("muster bench {}", place.rank);
  auto client = Client::connect(connect);
  if (!client) return client.error();
  JoinOptions join;
  join.rank = place.rank;
  join.world_size = options.ranks;
  join.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(options.timeout_s * 1e3));
  auto group = client->join(place.group, join);
  if (!group) return group.error();

  Bench bench(options, *client, *group, CpuClock(place.rank == 0 ? daemon_pid(options.socket) : 0));
  const auto met = bench.meet();
  if (!met) return met.error();
  for (const std::uint64_t bytes : bench_sizes(options)) {
    const auto report = bench.measure(bytes);
    if (!report) return report.error();
    send_report(pipe, *report);
  }
  return {};
}

}  // namespace

std::vector<std::uint64_t> bench_sizes(const BenchOptions& options) {
  if (options.op == BenchOp::barrier) return {0};
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t bytes = options.bytes_min; bytes <= options.bytes_max; bytes *= options.factor) {
    sizes.push_back(bytes);
    if (bytes == 0 || bytes > options.bytes_max / options.factor) break;
  }
  return sizes;
}

int bench_rank(const BenchOptions& options, const BenchRank& place, const ipc::Fd& pipe) {
  const auto done = measure_all(options, place, pipe);
  if (done) return 0;
  send_error(pipe, done.error());
  return static_cast<int>(exit_status_of(done.error().code()));
}

}  // namespace muster::cli
