// Bodies of records: ids and 64-bit numbers first, then 32-bit ones, then enumerators, then the variable parts.
// A reader takes every field, lets the Unpacker remember the first thing that was wrong, and says it once.
#include <muster/ipc/records.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include <muster/ipc/packed.hpp>

namespace muster::ipc {

namespace {

constexpr std::size_t error_text_bytes_max = 8 << 10;

template <class Id>
Id take_id(Unpacker& in, const char* problem_if_none) {
  const Id id{in.number<decltype(Id::value)>()};
  in.require(static_cast<bool>(id), problem_if_none);
  return id;
}

void put(Packer& out, const Capability& capability) {
  for (const auto bits : capability.bits) out.number(bits);
}

Capability take_capability(Unpacker& in) {
  Capability capability;
  for (auto& bits : capability.bits) bits = in.number<std::uint64_t>();
  return capability;
}

std::uint32_t count_of(std::size_t count) { return static_cast<std::uint32_t>(count); }

void put(Packer& out, const ObjectIds& objects) {
  for (const auto object : objects) out.number(object.value);
}

ObjectIds take_objects(Unpacker& in, std::uint64_t count) {
  ObjectIds objects;
  // A claim until the bytes are there.
  objects.reserve(std::min<std::uint64_t>(count, in.rest_bytes() / sizeof(std::uint64_t)));
  for (std::uint64_t i = 0; i < count && in.problem() == nullptr; ++i)
    objects.push_back(take_id<ObjectId>(in, "an object has no id"));
  return objects;
}

void put(Packer& out, SegmentId segment) {
  out.number(segment.value);
  out.pad();
}

SegmentId take_segment(Unpacker& in) {
  const auto segment = take_id<SegmentId>(in, "it names no segment");
  in.pad();
  return segment;
}

template <class T>
std::span<const T> view(const std::vector<T>& values) {
  return values;
}

/// Long texts are cut: an error must fit in a ring.
std::string_view bounded(const std::string& text) { return std::string_view(text).substr(0, error_text_bytes_max); }

void put(Packer& out, const Error& error) {
  const auto message = bounded(error.message());
  const auto hint = bounded(error.hint());
  const auto ranks = view(error.ranks()).first(std::min(error.ranks().size(), error_ranks_max));
  out.number(count_of(message.size()));
  out.number(count_of(hint.size()));
  out.number(count_of(ranks.size()));
  out.number(static_cast<std::uint32_t>(error.code()));
  out.numbers(ranks);
  out.text(message);
  out.text(hint);
  out.pad();
}

Error take_error(Unpacker& in) {
  const auto message_bytes = in.number<std::uint32_t>();
  const auto hint_bytes = in.number<std::uint32_t>();
  const auto ranks = in.number<std::uint32_t>();
  const auto code = in.number<std::uint32_t>();
  in.require(code >= 1 && code <= static_cast<std::uint32_t>(Code::denied), "unknown error code");
  auto lost = in.numbers<int>(ranks);
  auto message = in.text(message_bytes);
  auto hint = in.text(hint_bytes);
  in.pad();
  return {static_cast<Code>(code), std::move(message), std::move(hint), std::move(lost)};
}

/// What every reader ends with.
template <class T>
Result<T> finished(Unpacker& in, T value, std::string_view record, std::size_t bytes) {
  in.finish();
  if (in.problem() == nullptr) return value;
  return Error(Code::invalid, "malformed " + std::string(record) + " record: " + in.problem() + ", " +
                                  std::to_string(bytes) + " bytes in all");
}

}  // namespace

std::string_view name(Kind kind) {
  constexpr std::array<std::string_view, kind_count> names{
      "barrier", "allreduce",      "reduce",     "scan", "broadcast", "allgather", "gather",
      "scatter", "reduce_scatter", "all_to_all", "send", "recv",      "split",     "reform"};
  return names[static_cast<std::size_t>(kind)];
}

void write(const Seal& seal, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(seal.object.value);
  put(packer, seal.capability);
  packer.number(seal.parent.value);
  packer.number(seal.copied_bytes);
  encode(seal.manifest, out);
}

Result<Seal> read_seal(std::span<const std::byte> body) {
  Unpacker in(body);
  Seal seal;
  seal.object = take_id<ObjectId>(in, "it names no object");
  seal.capability = take_capability(in);
  seal.parent = {in.number<std::uint64_t>()};
  seal.copied_bytes = in.number<std::uint64_t>();
  in.require(seal.parent != seal.object, "an object is its own parent");
  const auto packed = in.bytes(in.rest_bytes());
  if (in.problem() == nullptr) {
    auto manifest = decode(packed);
    if (!manifest) return manifest.error();
    seal.manifest = std::move(*manifest);
    in.require(seal.copied_bytes <= seal.manifest.bytes(), "more bytes copied than there are");
  }
  return finished(in, std::move(seal), "seal", body.size());
}

void write(const Contribute& contribute, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(contribute.work.value);
  packer.number(contribute.tag);
  packer.number(contribute.timeout_ns);
  packer.number(contribute.seat.value);
  packer.number(contribute.epoch);
  packer.number(contribute.root);
  packer.number(count_of(contribute.objects.size()));
  packer.number(count_of(contribute.key.size()));
  packer.number(contribute.kind);
  packer.number(contribute.op);
  packer.number(contribute.layout);
  packer.number(std::uint8_t{0});
  put(packer, contribute.objects);
  packer.text(contribute.key);
  packer.pad();
}

Result<Contribute> read_contribute(std::span<const std::byte> body) {
  Unpacker in(body);
  Contribute contribute;
  contribute.work = take_id<WorkId>(in, "it names no work");
  contribute.tag = in.number<std::int64_t>();
  contribute.timeout_ns = in.number<std::int64_t>();
  contribute.seat = take_id<SeatId>(in, "it names no seat");
  contribute.epoch = in.number<std::uint32_t>();
  contribute.root = in.number<std::int32_t>();
  const auto objects = in.number<std::uint32_t>();
  const auto key_bytes = in.number<std::uint32_t>();
  contribute.kind = in.enumerator<Kind>(kind_count, "unknown kind");
  contribute.op = in.enumerator<ReduceOp>(reduce_op_count, "unknown reduce op");
  contribute.layout = in.enumerator<Layout>(layout_count, "unknown layout");
  in.require(in.number<std::uint8_t>() == 0, "a reserved field is set");
  in.require(contribute.timeout_ns >= 0, "its timeout is negative");
  in.require(key_bytes <= key_bytes_max, "its key is too long");
  contribute.objects = take_objects(in, objects);
  contribute.key = in.text(key_bytes);
  in.pad();
  return finished(in, std::move(contribute), "contribute", body.size());
}

void write(const Combine& combine, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(combine.work.value);
  packer.number(combine.timeout_ns);
  packer.number(combine.root);
  packer.number(combine.ranks);
  packer.number(count_of(combine.objects.size()));
  packer.number(combine.kind);
  packer.number(combine.op);
  packer.number(combine.layout);
  packer.number(std::uint8_t{0});
  put(packer, combine.objects);
}

Result<Combine> read_combine(std::span<const std::byte> body) {
  Unpacker in(body);
  Combine combine;
  combine.work = take_id<WorkId>(in, "it names no work");
  combine.timeout_ns = in.number<std::int64_t>();
  combine.root = in.number<std::int32_t>();
  combine.ranks = in.number<std::uint32_t>();
  const auto objects = in.number<std::uint32_t>();
  combine.kind = in.enumerator<Kind>(kind_count, "unknown kind");
  combine.op = in.enumerator<ReduceOp>(reduce_op_count, "unknown reduce op");
  combine.layout = in.enumerator<Layout>(layout_count, "unknown layout");
  in.require(in.number<std::uint8_t>() == 0, "a reserved field is set");
  in.require(combine.timeout_ns >= 0, "its timeout is negative");
  in.require(combine.ranks >= 1, "it has no ranks");
  in.require(combine.ranks == 0 || objects % combine.ranks == 0, "its ranks don't give the same number of objects");
  combine.objects = take_objects(in, objects);
  return finished(in, std::move(combine), "combine", body.size());
}

void write(const Release& release, std::vector<std::byte>& out) {
  Packer packer(out);
  put(packer, release.objects);
}

Result<Release> read_release(std::span<const std::byte> body) {
  Unpacker in(body);
  Release release{take_objects(in, body.size() / sizeof(std::uint64_t))};
  return finished(in, std::move(release), "release", body.size());
}

void write(const Pin& pin, std::vector<std::byte>& out) { Packer(out).number(pin.object.value); }

Result<Pin> read_pin(std::span<const std::byte> body) {
  Unpacker in(body);
  const Pin pin{take_id<ObjectId>(in, "it names no object")};
  return finished(in, pin, "pin", body.size());
}

namespace {

void write_item(const Item& item, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(item.object.value);
  put(packer, item.capability);
  packer.number(std::uint64_t{item.described ? encoded_bytes(item.manifest) : 0});
  if (item.described) encode(item.manifest, out);
}

Item take_item(Unpacker& in) {
  Item item;
  item.object = take_id<ObjectId>(in, "an object has no id");
  item.capability = take_capability(in);
  const auto manifest_bytes = in.number<std::uint64_t>();
  item.described = manifest_bytes != 0;
  const auto packed = in.bytes(manifest_bytes);
  if (!item.described || in.problem() != nullptr) return item;
  auto manifest = decode(packed);
  in.require(manifest.ok(), "malformed manifest");
  if (manifest) item.manifest = std::move(*manifest);
  return item;
}

}  // namespace

void write(const Done& done, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(done.work.value);
  packer.number(done.contributors);
  packer.number(done.epoch);
  packer.number(done.seat.value);
  packer.number(done.rank);
  packer.number(done.world_size);
  packer.number(count_of(done.name.size()));
  packer.number(count_of(done.live.size()));
  packer.number(count_of(done.items.size()));
  packer.numbers(view(done.live));
  packer.text(done.name);
  packer.pad();
  for (const auto& item : done.items) write_item(item, out);
}

void address_done(std::span<std::byte> done, WorkId work) {
  std::memcpy(done.data(), &work.value, sizeof work.value);  // its first field
}

Result<Done> read_done(std::span<const std::byte> body) {
  Unpacker in(body);
  Done done;
  done.work = take_id<WorkId>(in, "it names no work");
  done.contributors = in.number<std::uint32_t>();
  done.epoch = in.number<std::uint32_t>();
  done.seat = {in.number<std::uint32_t>()};
  done.rank = in.number<std::int32_t>();
  done.world_size = in.number<std::int32_t>();
  const auto name_bytes = in.number<std::uint32_t>();
  const auto live = in.number<std::uint32_t>();
  const auto items = in.number<std::uint32_t>();
  done.live = in.numbers<std::int32_t>(live);
  done.name = in.text(name_bytes);
  in.pad();
  // Not reserved: the count is only a claim until its items have been read.
  for (std::uint32_t i = 0; i < items && in.problem() == nullptr; ++i) done.items.push_back(take_item(in));
  return finished(in, std::move(done), "done", body.size());
}

void write(const Failed& failed, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(failed.work.value);
  put(packer, failed.error);
}

Result<Failed> read_failed(std::span<const std::byte> body) {
  Unpacker in(body);
  const auto work = take_id<WorkId>(in, "it names no work");
  Failed failed{work, take_error(in)};
  return finished(in, std::move(failed), "failed", body.size());
}

void write(const ObjectGone& gone, std::vector<std::byte>& out) { Packer(out).number(gone.object.value); }

Result<ObjectGone> read_object_gone(std::span<const std::byte> body) {
  Unpacker in(body);
  const ObjectGone gone{take_id<ObjectId>(in, "it names no object")};
  return finished(in, gone, "object_gone", body.size());
}

void write(const SealFailed& failed, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(failed.object.value);
  put(packer, failed.error);
}

Result<SealFailed> read_seal_failed(std::span<const std::byte> body) {
  Unpacker in(body);
  const auto object = take_id<ObjectId>(in, "it names no object");
  SealFailed failed{object, take_error(in)};
  return finished(in, std::move(failed), "seal_failed", body.size());
}

void write(const Unmapped& unmapped, std::vector<std::byte>& out) {
  Packer packer(out);
  put(packer, unmapped.segment);
}

Result<Unmapped> read_unmapped(std::span<const std::byte> body) {
  Unpacker in(body);
  const Unmapped unmapped{take_segment(in)};
  return finished(in, unmapped, "unmapped", body.size());
}

void write(const SegmentGone& gone, std::vector<std::byte>& out) {
  Packer packer(out);
  put(packer, gone.segment);
}

Result<SegmentGone> read_segment_gone(std::span<const std::byte> body) {
  Unpacker in(body);
  const SegmentGone gone{take_segment(in)};
  return finished(in, gone, "segment_gone", body.size());
}

void write(const MemoryWanted& wanted, std::vector<std::byte>& out) { Packer(out).number(wanted.waiting); }

Result<MemoryWanted> read_memory_wanted(std::span<const std::byte> body) {
  Unpacker in(body);
  const MemoryWanted wanted{in.number<std::uint64_t>()};
  return finished(in, wanted, "memory_wanted", body.size());
}

void write(const GroupChanged& changed, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.number(changed.seat.value);
  packer.number(changed.epoch);
  packer.number(count_of(changed.live.size()));
  packer.number(count_of(changed.lost.size()));
  packer.numbers(view(changed.live));
  packer.numbers(view(changed.lost));
  packer.pad();
}

Result<GroupChanged> read_group_changed(std::span<const std::byte> body) {
  Unpacker in(body);
  GroupChanged changed;
  changed.seat = take_id<SeatId>(in, "it names no seat");
  changed.epoch = in.number<std::uint32_t>();
  const auto live = in.number<std::uint32_t>();
  const auto lost = in.number<std::uint32_t>();
  changed.live = in.numbers<std::int32_t>(live);
  changed.lost = in.numbers<std::int32_t>(lost);
  in.pad();
  return finished(in, std::move(changed), "group_changed", body.size());
}

}  // namespace muster::ipc
