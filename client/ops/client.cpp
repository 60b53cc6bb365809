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
#include "device/cuda.hpp"
#include "holds.hpp"
#include "in_place.hpp"
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
    if (*wanted != welcome.memory_bytes())
      return runs_otherwise(connection, "memory=" + options.memory, ipc::bytes_text(welcome.memory_bytes(), *wanted),
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
  return allocate_raw(dtype, std::move(shape), Device::cpu(), timeout);
}

Result<RawBuffer> Client::allocate_raw(DType dtype, Shape shape, Device device, Timeout timeout) {
  const auto count = check_array(dtype, shape, timeout);
  if (!count) return count.error();
  if (!connected()) return connection_->end_error();
  auto arena = detail::arena_on(*connection_, device);
  if (!arena) return arena.error();
  const auto wait = detail::bounded(timeout.value_or(detail::default_wait));
  const detail::CallDeadline deadline(wait);
  auto address = (*arena)->allocate(*count * size_of(dtype), 0, wait);
  if (!address) return address.error();
  auto lease = std::make_shared<detail::Lease>();
  lease->connection = connection_;
  lease->region = *(*arena)->find(*address);
  return RawBuffer(std::move(lease), *address, dtype, std::move(shape));
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
  auto segment = detail::map_lease(*connection_, std::move(*granted), Device::cpu());
  if (!segment) return segment.error();
  auto lease = std::make_shared<detail::Lease>();
  lease->connection = connection_;
  lease->hard = std::move(*segment);
  connection_->arena().add_hard_lease(lease->hard);
  void* data = lease->hard.mapping.data();
  return RawBuffer(std::move(lease), data, dtype, std::move(shape));
}

namespace {

/// What GPUs wrote into a region is there after this.
Result<void> finish_writes(const detail::ArenaRegion& region) {
  return detail::Cuda::finish_on(region.device, region.address);
}

}  // namespace

Result<Ref> Client::seal_bundle(std::vector<RawBuffer> buffers, std::string structure) {
  ipc::Manifest manifest;
  std::vector<const std::byte*> addresses;
  for (const auto& buffer : buffers) {
    if (!buffer.lease() || buffer.lease()->hard.mapping)
      return Error(Code::invalid, "an empty or hard buffer can't be part of a bundle");
    const auto& region = buffer.lease()->region;
    if (auto added = detail::add_leaf(manifest, region, buffer.dtype(), buffer.shape()); !added) return added.error();
    if (auto written = finish_writes(region); !written) return written.error();
    buffer.lease()->finished = true;
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
  if (auto written = finish_writes(lease_->region); !written) return written.error();
  return std::move(*this).seal_written();
}

Result<Ref> RawBuffer::seal(Stream stream, Timeout timeout) && {
  if (!lease_ || lease_->region.device.is_host())
    return Error(Code::invalid, "only a buffer on a GPU is written by a stream", "call seal()");
  if (auto checked = detail::check_timeout(timeout); !checked) return checked.error();
  auto cuda = detail::Cuda::get();
  if (!cuda) return cuda.error();
  const auto wait = detail::bounded(timeout.value_or(detail::default_wait));
  if (auto written = (*cuda)->finish(lease_->region.address, stream, wait); !written) return written.error();
  return std::move(*this).seal_written();
}

Result<Ref> RawBuffer::seal_written() && {
  ipc::Manifest manifest;
  const auto& region = lease_->region;
  if (auto added = detail::add_leaf(manifest, region, dtype_, shape_); !added) return added.error();
  const auto lease = std::move(lease_);
  lease->finished = true;
  const std::byte* address = region.address;
  return detail::seal(lease->connection, std::move(manifest), {&address, 1}, 0);
}

Device RawBuffer::device() const { return lease_ ? lease_->region.device : Device::cpu(); }

namespace {

/// Copies what the user has somewhere.
Result<void> copy_in(const RawBuffer& buffer, const void* data, std::uint64_t bytes) {
  if (bytes == 0) return {};
  const auto copy_on_host = [&] { std::memcpy(buffer.data(), data, bytes); };
  if (buffer.device() == Device::cpu()) return copy_on_host(), Result<void>();
  auto cuda = detail::Cuda::get();
  if (!cuda) return cuda.error();
  const bool is_on_gpu = (*cuda)->ordinal_of(data).has_value();
  if (!is_on_gpu && buffer.device().is_host()) return copy_on_host(), Result<void>();
  if (is_on_gpu)
    if (auto written = (*cuda)->finish(data); !written) return written;
  return (*cuda)->copy(buffer.data(), data, bytes);
}

}  // namespace

Result<Ref> Client::put(DType dtype, Shape shape, const void* data, Timeout timeout) {
  return put(dtype, std::move(shape), data, Device::cpu(), timeout);
}

Result<Ref> Client::put(DType dtype, Shape shape, const void* data, Device device, Timeout timeout) {
  const detail::CallDeadline deadline(timeout.value_or(detail::default_wait));
  auto buffer = allocate_raw(dtype, std::move(shape), device, timeout);
  if (!buffer) return buffer.error();
  const auto& region = buffer->lease()->region;
  ipc::Manifest manifest;
  if (auto added = detail::add_leaf(manifest, region, dtype, buffer->shape()); !added) return added.error();
  const std::uint64_t bytes = manifest.bytes();
  if (auto copied = copy_in(*buffer, data, bytes); !copied) return copied.error();
  buffer->lease()->finished = true;
  const std::byte* address = region.address;
  return detail::seal(connection_, std::move(manifest), {&address, 1}, bytes);
}

namespace {

/// Whether an array of so many bytes lies there on a GPU, and can be read as it is.
Result<void> check_on_gpu(const detail::Cuda& cuda, const void* data, DType dtype, std::uint64_t bytes) {
  const auto there = cuda.bytes_from(data);
  if (!there) return Error(Code::invalid, "only memory of a GPU can be left in place", "copy it: put()");
  if (*there < bytes)
    return Error(Code::invalid, fmt::format("the array has {} bytes, and its memory ends after {}", bytes, *there),
                 "its shape is not that of its memory");
  if (reinterpret_cast<std::uintptr_t>(data) % size_of(dtype) != 0)
    return Error(Code::invalid, "the array is not aligned to its elements, so it can't be left in place",
                 "copy it: put()");
  return {};
}

}  // namespace

Result<Ref> Client::put_in_place(DType dtype, Shape shape, const void* data, Device device,
                                 std::shared_ptr<const void> owner, Timeout timeout) {
  const auto count = check_array(dtype, shape, timeout);
  if (!count) return count.error();
  if (!connected()) return connection_->end_error();
  const auto wait = detail::bounded(timeout.value_or(detail::default_wait));
  const detail::CallDeadline deadline(wait);
  ipc::Manifest manifest;
  detail::InPlace in_place(connection_);
  detail::InPlace::Place place;
  if (*count > 0) {
    auto cuda = detail::Cuda::get();
    if (!cuda) return cuda.error();
    if (auto there = check_on_gpu(**cuda, data, dtype, *count * size_of(dtype)); !there) return there.error();
    if (auto written = (*cuda)->finish(data); !written) return written.error();
    auto left = in_place.leave(data, device, std::move(owner), wait);
    if (!left) return left.error();
    if (!*left)
      return Error(Code::invalid, "the driver can't share this memory by handles of legacy IPC",
                   "allocate it by cudaMalloc(), or copy it: put()");
    place = **left;
  }
  if (auto added = manifest.add(place.segment, place.offset, dtype, shape, device); !added) return added.error();
  return detail::seal(connection_, std::move(manifest), {}, 0);
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
std::uint64_t Client::memory_bytes() const { return connection_->welcome().memory_bytes(); }
bool Client::is_pinned(const void* address) {
  const auto* const cuda = detail::Cuda::if_open();
  return cuda && cuda->is_pinned(address);
}
bool Client::connected() const { return connection_->alive(); }

}  // namespace muster
