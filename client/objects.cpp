// Making objects: sealing regions, and naming parts of what exists.
#include <cstring>

#include "connection.hpp"
#include "hold.hpp"
#include "lease.hpp"
#include "requests.hpp"
#include "seat.hpp"

namespace muster::detail {

Lease::~Lease() {
  if (!connection || !region.address) return;
  connection->arena().free(region.address);
}

Result<Ref> seal(const std::shared_ptr<Connection>& connection, ipc::Manifest manifest,
                 std::span<const std::byte* const> addresses, std::uint64_t copied_bytes) {
  connection->keep_up();
  ipc::Seal record;
  record.object = connection->next_object();
  record.capability = connection->random_capability();
  record.copied_bytes = copied_bytes;
  record.manifest = std::move(manifest);
  connection->arena().adopt(record.object, addresses);
  Connection::Submission submission{ipc::SubmissionType::seal, {}};
  ipc::write(record, submission.body);
  if (auto sent = connection->submit({&submission, 1}); !sent) {
    connection->arena().object_gone(record.object);
    return sent.error();
  }
  return Ref(std::make_shared<Hold>(connection, record.object, record.capability, std::move(record.manifest)));
}

Result<Ref> derive(const Ref& whole, ipc::Manifest manifest) {
  auto hold = usable(whole.hold());
  if (!hold) return hold.error();
  const auto& connection = (*hold)->connection;
  ipc::Seal record;
  record.object = connection->next_object();
  record.capability = connection->random_capability();
  record.parent = (*hold)->object;
  record.manifest = std::move(manifest);
  Connection::Submission submission{ipc::SubmissionType::seal, {}};
  ipc::write(record, submission.body);
  if (auto sent = connection->submit({&submission, 1}); !sent) return sent.error();
  return Ref(std::make_shared<Hold>(connection, record.object, record.capability, std::move(record.manifest)));
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
    return Error(Code::invalid, "rows " + std::to_string(first_row) + " to " + std::to_string(first_row + rows) +
                                    " of " + std::to_string(shape[0]));
  Shape part(shape.begin(), shape.end());
  part[0] = rows;
  const std::uint64_t row_bytes = shape[0] == 0 ? 0 : leaf.bytes() / static_cast<std::uint64_t>(shape[0]);
  ipc::Manifest sliced;
  const bool empty = row_bytes == 0 || rows == 0;
  if (auto added =
          sliced.add(empty ? ipc::SegmentId{} : leaf.segment,
                     empty ? 0 : leaf.offset + row_bytes * static_cast<std::uint64_t>(first_row), leaf.dtype, part);
      !added)
    return added.error();
  return derive(whole, std::move(sliced));
}

Result<Work> combine(const std::shared_ptr<Connection>& connection, ipc::Combine record, std::span<const Ref> inputs,
                     const OpOptions& options) {
  constexpr auto default_timeout = std::chrono::seconds(30);
  const auto timeout = options.timeout.value_or(default_timeout);
  auto state = std::make_shared<WorkState>();
  state->connection = connection;
  state->id = connection->next_work();
  state->what = std::string(ipc::name(record.kind)) + " over refs";
  state->deadline = std::chrono::steady_clock::now() + timeout;
  record.work = state->id;
  record.timeout_ns = timeout.count();
  std::vector<std::shared_ptr<const Hold>> holds;
  for (const auto& ref : inputs) {
    auto hold = usable(ref.hold());
    if (!hold) return hold.error();
    if ((*hold)->connection != connection)
      return Error(Code::invalid, "a ref belongs to another daemon's store", "use refs of one node");
    record.objects.push_back((*hold)->object);
    holds.push_back(std::move(*hold));
  }
  Connection::Submission submission{ipc::SubmissionType::combine, {}};
  ipc::write(record, submission.body);
  connection->add_work(state);
  if (auto sent = connection->submit({&submission, 1}); !sent) {
    connection->forget_work(state->id);
    return sent.error();
  }
  return Work(std::move(state));
}

}  // namespace muster::detail
