// What a Client does itself: buffers, objects, and ops over refs.
#include <muster/client.hpp>

#include <cstring>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/text.hpp>

#include "base/bounded_time.hpp"
#include "base/call_deadline.hpp"
#include "core/connection.hpp"
#include "environment.hpp"
#include "holds.hpp"
#include "join.hpp"
#include "lease.hpp"
#include "objects.hpp"
#include "core/requests.hpp"

namespace muster {

namespace wire = ipc::wire;
using detail::Connection;

namespace {

Error runs_otherwise(const Connection& connection, const std::string& wanted, const std::string& has,
                     const std::string& name) {
  return {Code::invalid,
          fmt::format("{} was asked for, but the daemon at {} runs with {}", wanted, connection.welcome().socket, has),
          fmt::format("leave {} out, or end that daemon first: muster stop", name)};
}

/// A daemon that was running already may have other settings.
Result<void> check_settings(const Connection& connection, const ConnectOptions& options) {
  const auto& welcome = connection.welcome();
  if (!options.memory.empty()) {
    auto wanted = ipc::parse_bytes(options.memory);
    if (!wanted) return wanted.error();
    if (*wanted != welcome.memory_bytes)
      return runs_otherwise(connection, "memory=" + options.memory, ipc::bytes_text(welcome.memory_bytes, *wanted),
                            "memory");
  }
  if (options.pickle_lease && *options.pickle_lease != welcome.pickle_lease)
    return runs_otherwise(connection, "a pickle lease of " + ipc::seconds_text(*options.pickle_lease),
                          ipc::seconds_text(welcome.pickle_lease), "the pickle lease");
  return {};
}

/// Returns the number of elements.
Result<std::uint64_t> check_array(DType dtype, const Shape& shape, Timeout timeout) {
  if (static_cast<std::size_t>(dtype) >= dtype_count)
    return Error(Code::invalid, fmt::format("dtype {} is unknown", static_cast<int>(dtype)),
                 "use one of muster::DType");
  if (shape.size() > ipc::ndim_max)
    return Error(Code::invalid, fmt::format("the shape has {} axes", shape.size()),
                 fmt::format("use at most {}", ipc::ndim_max));
  if (auto checked = detail::check_timeout(timeout); !checked) return checked.error();
  return ipc::element_count(shape, dtype);
}

}  // namespace

Result<Client> Client::connect(ConnectOptions options) {
  if (auto checked = detail::check_timeout(std::optional(options.timeout)); !checked) return checked.error();
  if (!options.memory.empty())
    if (auto parsed = ipc::parse_bytes(options.memory); !parsed) return parsed.error();
  auto connection = Connection::open_or_reuse(options);
  if (!connection) return connection.error();
  if (auto checked = check_settings(**connection, options); !checked) return checked.error();
  return Client(std::move(*connection));
}

Result<Group> Client::join(std::string name, JoinOptions options) {
  if (auto checked = detail::check_timeout(std::optional(options.timeout)); !checked) return checked.error();
  if (options.rank < 0 || options.world_size < 0) {
    const auto placed = detail::placement_from_environment();
    if (!placed) {
      const bool has_rank = options.rank >= 0;
      const bool has_size = options.world_size >= 0;
      const std::string needed = has_rank ? "a world_size, too" : has_size ? "a rank, too" : "a rank and a world_size";
      const std::string given = has_rank   ? fmt::format("rank={} is given; ", options.rank)
                                : has_size ? fmt::format("world_size={} is given; ", options.world_size)
                                           : "";
      return Error(Code::invalid,
                   fmt::format("group '{}' needs {}: {}{}", name, needed, given, placed.error().message()),
                   placed.error().hint());
    }
    if (options.rank < 0) options.rank = placed->rank;
    if (options.world_size < 0) options.world_size = placed->world_size;
  }
  std::uint64_t history_bytes = 0;
  if (!options.history.empty()) {
    auto parsed = ipc::parse_bytes(options.history);
    if (!parsed) return parsed.error();
    history_bytes = *parsed;
  }
  return detail::join(
      connection_, name, options.rank,
      {options.world_size, options.on_loss, options.open, history_bytes, detail::bounded(options.timeout)});
}

Result<RawBuffer> Client::allocate_raw(DType dtype, Shape shape, Timeout timeout) {
  const auto count = check_array(dtype, shape, timeout);
  if (!count) return count.error();
  if (!connected()) return connection_->end_error();
  const auto wait = detail::bounded(timeout.value_or(detail::default_wait));
  const detail::CallDeadline deadline(wait);
  auto address = connection_->arena().allocate(*count * size_of(dtype), 0, wait);
  if (!address) return address.error();
  auto lease = std::make_shared<detail::Lease>();
  lease->connection = connection_;
  lease->region = *connection_->arena().find(*address);
  return RawBuffer(std::move(lease), *address, dtype, std::move(shape));
}

Result<RawBuffer> Client::allocate_raw(DType dtype, Shape shape, Device device, Timeout timeout) {
  if (auto checked = detail::check_device(*connection_, device); !checked) return checked.error();
  return allocate_raw(dtype, std::move(shape), timeout);
}

Result<RawBuffer> Client::allocate_hard(DType dtype, Shape shape, Timeout timeout) {
  const auto count = check_array(dtype, shape, timeout);
  if (!count) return count.error();
  const std::uint64_t bytes = std::max<std::uint64_t>(*count * size_of(dtype), 1);
  const auto wait = detail::bounded(timeout.value_or(detail::default_wait));
  const detail::CallDeadline deadline(wait);
  const auto until = std::chrono::steady_clock::now() + wait;
  auto granted = detail::ask(*connection_, wire::Body_Lease, detail::timeout_max, [&](auto& fbb) {
    const auto left = until - std::chrono::steady_clock::now();
    return wire::CreateLease(fbb, bytes, detail::milliseconds_of(left), true).Union();
  });
  if (!granted) return granted.error();
  auto segment = detail::map_lease(*connection_, std::move(*granted));
  if (!segment) return segment.error();
  auto lease = std::make_shared<detail::Lease>();
  lease->connection = connection_;
  lease->hard = std::move(*segment);
  connection_->arena().add_hard_lease(lease->hard);
  void* data = lease->hard.mapping.data();
  return RawBuffer(std::move(lease), data, dtype, std::move(shape));
}

Result<Ref> Client::seal_bundle(std::vector<RawBuffer> buffers, std::string structure) {
  ipc::Manifest manifest;
  std::vector<const std::byte*> addresses;
  for (const auto& buffer : buffers) {
    if (!buffer.lease() || buffer.lease()->hard.mapping)
      return Error(Code::invalid, "an empty or hard buffer can't be part of a bundle");
    const auto& region = buffer.lease()->region;
    const auto count = ipc::element_count(buffer.shape(), buffer.dtype());
    const bool empty = !count || *count == 0;
    if (auto added = manifest.add(empty ? ipc::SegmentId{} : region.segment, empty ? 0 : region.offset, buffer.dtype(),
                                  buffer.shape());
        !added)
      return added.error();
    addresses.push_back(region.address);
  }
  manifest.structure = std::move(structure);
  return detail::seal(connection_, std::move(manifest), addresses, 0);
}

Result<Ref> RawBuffer::seal() && {
  if (!lease_) return Error(Code::invalid, "an empty buffer can't be sealed");
  if (lease_->hard.mapping) {
    ipc::Manifest manifest;
    if (auto added = manifest.add(lease_->hard.id, 0, dtype_, shape_); !added) return added.error();
    return detail::seal_hard(*lease_, std::move(manifest));
  }
  const auto connection = lease_->connection;
  std::vector<RawBuffer> one;
  one.push_back(std::move(*this));
  return Client(connection).seal_bundle(std::move(one), {});
}

Result<Ref> Client::put(DType dtype, Shape shape, const void* data, Timeout timeout) {
  const detail::CallDeadline deadline(timeout.value_or(detail::default_wait));
  auto buffer = allocate_raw(dtype, std::move(shape), timeout);
  if (!buffer) return buffer.error();
  const auto count = ipc::element_count(buffer->shape(), dtype);
  const std::uint64_t bytes = *count * size_of(dtype);
  if (bytes > 0) std::memcpy(buffer->data(), data, bytes);
  ipc::Manifest manifest;
  const auto region = buffer->lease()->region;
  if (auto added =
          manifest.add(bytes ? region.segment : ipc::SegmentId{}, bytes ? region.offset : 0, dtype, buffer->shape());
      !added)
    return added.error();
  const std::byte* address = region.address;
  return detail::seal(connection_, std::move(manifest), {&address, 1}, bytes);
}

Result<Ref> Client::deserialize(std::string_view bytes) {
  auto hold = detail::deserialize(bytes, connection_);
  if (!hold) return hold.error();
  return Ref(std::move(*hold));
}

Result<Work> Client::allreduce_refs(std::span<const Ref> inputs, ReduceOp op, OpOptions options) {
  ipc::Combine record;
  record.kind = ipc::Kind::allreduce;
  record.op = op;
  record.ranks = static_cast<std::uint32_t>(inputs.size());
  return detail::combine(connection_, std::move(record), inputs, options);
}

Result<Work> Client::allgather_refs(std::span<const Ref> inputs, bool stack, OpOptions options) {
  ipc::Combine record;
  record.kind = ipc::Kind::allgather;
  record.layout = stack ? ipc::Layout::stack : ipc::Layout::parts;
  record.ranks = static_cast<std::uint32_t>(inputs.size());
  return detail::combine(connection_, std::move(record), inputs, options);
}

Result<Work> Client::reduce_scatter_refs(std::span<const Ref> inputs, int ranks, ReduceOp op, OpOptions options) {
  ipc::Combine record;
  record.kind = ipc::Kind::reduce_scatter;
  record.op = op;
  record.ranks = static_cast<std::uint32_t>(std::max(ranks, 0));
  return detail::combine(connection_, std::move(record), inputs, options);
}

Result<Work> Client::all_to_all_refs(std::span<const Ref> inputs, int ranks, OpOptions options) {
  ipc::Combine record;
  record.kind = ipc::Kind::all_to_all;
  record.ranks = static_cast<std::uint32_t>(std::max(ranks, 0));
  return detail::combine(connection_, std::move(record), inputs, options);
}

Result<int> Client::fd() const { return connection_->event_fd(); }
void Client::poll() const { connection_->poll(); }
const std::string& Client::socket() const { return connection_->welcome().socket; }
std::uint64_t Client::memory_bytes() const { return connection_->welcome().memory_bytes; }
bool Client::connected() const { return connection_->alive(); }

}  // namespace muster
