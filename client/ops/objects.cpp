#include "objects.hpp"

#include <algorithm>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>

#include "base/bounded_time.hpp"
#include "base/call_deadline.hpp"
#include "core/connection.hpp"
#include "device/cuda.hpp"
#include "holds.hpp"
#include "lease.hpp"
#include "core/requests.hpp"
#include "base/scratch.hpp"

namespace muster::detail {

namespace wire = ipc::wire;

Lease::~Lease() {
  if (!connection) return;
  if (region.address) {
    // Work on a GPU may still use what it was given.
    if (!finished) static_cast<void>(Cuda::finish_on(region.device, region.address));
    if (auto* const arena = connection->arenas().on(region.device)) arena->free(region.address);
  }
  if (!hard.mapping) return;
  connection->arena().forget_hard_lease(hard.id);
  hard.mapping.unmap();
  tell_returned(*connection, hard.id);
}

Result<void> add_leaf(ipc::Manifest& manifest, const ArenaRegion& region, DType dtype,
                      std::span<const std::int64_t> shape) {
  const auto count = ipc::element_count(shape, dtype);
  if (!count) return count.error();
  if (*count == 0) return manifest.add({}, 0, dtype, shape, region.device);
  return manifest.add(region.segment, region.offset, dtype, shape, region.device);
}

namespace {

Result<void> submit_seal(Connection& connection, std::span<const std::byte> body, AroundWait around) {
  if (!around) return connection.submit(ipc::SubmissionType::seal, body);
  auto sent = connection.submit_now(ipc::SubmissionType::seal, body);
  if (!sent) return sent.error();
  return *sent ? Result<void>() : around([&] { return connection.submit(ipc::SubmissionType::seal, body); });
}

/// Sends the seal of a new object. The arena or the parent object keeps the bytes already.
Result<Ref> send_seal(const std::shared_ptr<Connection>& connection, ipc::Seal record, AroundWait around = nullptr) {
  const auto fail = [&](const Error& error) {
    connection->arenas().object_gone(record.object);
    return error;
  };
  if (const auto leaves = record.manifest.leaves.size(); leaves > ipc::object_leaves_max)
    return fail(ipc::too_many_leaves(leaves));
  if (const auto bytes = ipc::encoded_bytes(record.manifest); bytes > ipc::description_bytes_max)
    return fail(Error(Code::invalid,
                      fmt::format("an object of {} arrays and {} of keys and constants takes a description of {}",
                                  record.manifest.leaves.size(), ipc::bytes_text(record.manifest.structure.size()),
                                  ipc::over_text(bytes, ipc::description_bytes_max)),
                      "use fewer arrays and shorter keys, or put large constants into arrays"));
  record.capability = connection->names().random_capability();
  Scratch body;
  ipc::write(record, *body);
  if (auto sent = submit_seal(*connection, *body, around); !sent) return fail(sent.error());
  return Ref(
      std::make_shared<Hold>(connection, *connection, record.object, record.capability, std::move(record.manifest)));
}

}  // namespace

Result<Ref> seal(const std::shared_ptr<Connection>& connection, ipc::Manifest manifest,
                 std::span<const std::byte* const> addresses, std::uint64_t copied_bytes, AroundWait around) {
  if (!connection->alive()) return connection->end_error();
  ipc::Seal record;
  record.object = connection->names().next_object();
  record.copied_bytes = copied_bytes;
  record.manifest = std::move(manifest);
  if (auto adopted = connection->arenas().adopt(record.object, addresses); !adopted) return adopted.error();
  return send_seal(connection, std::move(record), around);
}

Result<Ref> seal_hard(Lease& lease, ipc::Manifest manifest) {
  const auto& connection = lease.connection;
  const auto segment = lease.hard.id;
  // No process may have a writable mapping when the daemon forbids writing for good.
  connection->arena().forget_hard_lease(segment);
  lease.hard.mapping.unmap();
  auto sealed = ask(*connection, wire::Body_HardSeal, std::chrono::seconds(30),
                    [&](auto& fbb) { return wire::CreateHardSeal(fbb, segment.value).Union(); });
  if (!sealed) {
    tell_returned(*connection, segment);
    return sealed.error();
  }
  ipc::Seal record;
  record.object = connection->names().next_object();
  record.manifest = std::move(manifest);
  connection->arena().adopt_hard(record.object, segment);
  return send_seal(connection, std::move(record));
}

Result<Ref> derive(const Ref& whole, ipc::Manifest manifest) {
  auto hold = usable(whole.hold());
  if (!hold) return hold.error();
  ipc::Seal record;
  record.object = (*hold)->connection->names().next_object();
  record.parent = (*hold)->object;
  (*hold)->shared = true;
  record.manifest = std::move(manifest);
  record.manifest.makers = (*hold)->manifest.makers;
  return send_seal((*hold)->connection, std::move(record));
}

Result<Ref> slice(const Ref& whole, std::int64_t first_row, std::int64_t rows) {
  auto hold = usable(whole.hold());
  if (!hold) return hold.error();
  const auto& manifest = (*hold)->manifest;
  if (manifest.leaves.size() != 1 || manifest.leaves.front().ndim == 0)
    return Error(Code::invalid, "only one array with at least one axis can be split along axis 0");
  const auto& leaf = manifest.leaves.front();
  const auto shape = manifest.shape(leaf);
  if (first_row < 0 || rows < 0 || rows > shape[0] - first_row)
    return Error(Code::invalid, fmt::format("rows {} to {} are out of range: the array has {}", first_row,
                                            first_row + rows, shape[0]));
  Shape part(shape.begin(), shape.end());
  part[0] = rows;
  const std::uint64_t row_bytes = shape[0] == 0 ? 0 : leaf.bytes() / static_cast<std::uint64_t>(shape[0]);
  ipc::Manifest sliced;
  const bool empty = row_bytes == 0 || rows == 0;
  if (auto added = sliced.add(empty ? ipc::SegmentId{} : leaf.segment,
                              empty ? 0 : leaf.offset + row_bytes * static_cast<std::uint64_t>(first_row), leaf.dtype,
                              part, leaf.device);
      !added)
    return added.error();
  sliced.guise = manifest.guise;
  return derive(whole, std::move(sliced));
}

Result<void> check_reduce_op(ReduceOp op) {
  if (static_cast<std::size_t>(op) < reduce_op_count) return {};
  return Error(Code::invalid, fmt::format("reduce op {} is unknown", static_cast<int>(op)),
               "use one of muster::ReduceOp");
}

namespace {

std::string count_text(std::size_t count, const std::string& of_what) {
  return fmt::format("{} {}{}", count, of_what, count == 1 ? "" : "s");
}

/// Refuses what can't work, and what would make the daemon end the connection.
Result<void> check(const ipc::Combine& record, std::size_t inputs, const OpOptions& options) {
  if (auto checked = check_reduce_op(record.op); !checked) return checked;
  if (auto checked = check_timeout(options.timeout); !checked) return checked;
  if (inputs > 0 && record.ranks > 0 && inputs % record.ranks == 0) return {};
  return Error(Code::invalid, fmt::format("got {} for {}", count_text(inputs, "ref"), count_text(record.ranks, "rank")),
               "give the same number of refs for each rank, at least 1");
}

}  // namespace

Result<Work> combine(const std::shared_ptr<Connection>& connection, ipc::Combine record, std::span<const Ref> inputs,
                     const OpOptions& options) {
  if (auto checked = check(record, inputs.size(), options); !checked) return checked.error();
  constexpr std::chrono::nanoseconds default_timeout = std::chrono::seconds(30);
  const auto timeout = bounded(options.timeout.value_or(default_timeout));
  const CallDeadline deadline(timeout);
  auto objects = objects_of(connection, inputs);
  if (!objects) return objects.error();
  record.objects = std::move(*objects);
  auto state = std::make_shared<WorkState>();
  state->connection = connection;
  state->id = connection->names().next_work();
  state->kind = record.kind;
  state->deadline = std::chrono::steady_clock::now() + timeout;
  record.work = state->id;
  record.timeout_ns = timeout.count();
  Scratch body;
  ipc::write(record, *body);
  const auto taken = connection->locked([&](Protocol& protocol) { return protocol.works.start(state, false, 0); });
  if (taken.place == Works::Place::lost) return connection->end_error();
  if (auto sent = connection->submit(ipc::SubmissionType::combine, *body); !sent) {
    connection->locked([&](Protocol& protocol) { protocol.works.not_sent(state->id); });
    return sent.error();
  }
  return Work(std::move(state));
}

}  // namespace muster::detail
