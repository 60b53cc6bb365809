// Bodies of records: ids and 64-bit numbers first, then 32-bit ones, then enumerators, then the variable parts. A
// reader takes every field, lets the Unpacker remember the first problem, and reports it once.
#include <muster/ipc/records.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <muster/ipc/packed.hpp>

namespace muster::ipc {

namespace {

constexpr std::size_t error_text_bytes_max = 8 << 10;

/// An id that was read. Zero names nothing.
template <class Id>
Id named(Unpacker& in, decltype(Id::value) value, const char* problem_if_none) {
  in.require(value != 0, problem_if_none);
  return {value};
}

constexpr auto nameless_object = "an object has no id";

std::uint32_t count_of(std::size_t count) { return static_cast<std::uint32_t>(count); }

ObjectIds take_objects(Unpacker& in, std::uint64_t count) {
  auto objects = in.numbers<ObjectId, ObjectIds>(count);
  for (const auto object : objects) in.require(static_cast<bool>(object), nameless_object);
  return objects;
}

template <class T>
std::span<const T> view(const std::vector<T>& values) {
  return values;
}

std::span<const ObjectId> view(const ObjectIds& objects) { return {objects.data(), objects.size()}; }

/// Long texts are cut: an error must fit in a ring.
std::string_view bounded(const std::string& text) { return std::string_view(text).substr(0, error_text_bytes_max); }

struct PackedError {
  std::uint32_t message_bytes;
  std::uint32_t hint_bytes;
  std::uint32_t ranks;
  std::uint32_t code;
};

void put(Packer& out, const Error& error) {
  const auto message = bounded(error.message());
  const auto hint = bounded(error.hint());
  const auto ranks = view(error.ranks()).first(std::min(error.ranks().size(), error_ranks_max));
  out.fixed(PackedError{count_of(message.size()), count_of(hint.size()), count_of(ranks.size()),
                        static_cast<std::uint32_t>(error.code())});
  out.numbers(ranks);
  out.text(message);
  out.text(hint);
  out.pad();
}

Error take_error(Unpacker& in) {
  const auto head = in.fixed<PackedError>();
  in.require(head.code >= 1 && head.code <= static_cast<std::uint32_t>(Code::denied), "its error code is unknown");
  auto lost = in.numbers<int>(head.ranks);
  auto message = in.text(head.message_bytes);
  auto hint = in.text(head.hint_bytes);
  in.pad();
  return {static_cast<Code>(head.code), std::move(message), std::move(hint), std::move(lost)};
}

Error malformed(std::string_view record, const char* problem, std::size_t bytes) {
  return {Code::invalid, fmt::format("the {} record is malformed: {}, {} bytes in all", record, problem, bytes)};
}

/// What every reader does. `take` fills in the record where it stays, as some are not cheap to move.
template <class Record, class Take>
Result<Record> read(std::string_view name, std::span<const std::byte> body, const Take& take) {
  Result<Record> result(std::in_place);
  Unpacker in(body);
  take(in, *result);
  in.finish();
  if (in.problem() != nullptr) result = malformed(name, in.problem(), body.size());
  return result;
}

/// Reads a record that is a single id.
template <class Record, class Id>
Result<Record> read_id(std::string_view name, std::span<const std::byte> body, Id Record::*id, const char* problem) {
  return read<Record>(name, body, [&](Unpacker& in, Record& record) {
    record.*id = named<Id>(in, in.fixed<decltype(Id::value)>(), problem);
    in.pad();
  });
}

template <class Id>
void write_id(Id id, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.fixed(id);
  packer.pad();
}

}  // namespace

std::string_view name(Kind kind) {
  constexpr std::array<std::string_view, kind_count> names{
      "barrier", "allreduce",      "reduce",     "scan", "broadcast", "allgather", "gather",
      "scatter", "reduce_scatter", "all_to_all", "send", "recv",      "split",     "reform"};
  return names[static_cast<std::size_t>(kind)];
}

namespace {

struct PackedSeal {
  ObjectId object;
  Capability capability;
  ObjectId parent;
  std::uint64_t copied_bytes;
};

struct PackedContribute {
  WorkId work;
  std::int64_t tag;
  std::int64_t timeout_ns;
  SeatId seat;
  std::uint32_t epoch;
  std::int32_t root;
  std::uint32_t objects;
  std::uint16_t key_bytes;
  std::uint16_t fault_bytes;
  std::uint8_t kind;
  std::uint8_t op;
  std::uint8_t layout;
  std::uint8_t fault;  ///< a Code; 0: none
};

struct PackedCombine {
  WorkId work;
  std::int64_t timeout_ns;
  std::int32_t root;
  std::uint32_t ranks;
  std::uint32_t objects;
  std::uint8_t kind;
  std::uint8_t op;
  std::uint8_t layout;
  std::uint8_t zero;
};

struct PackedItem {
  ObjectId object;
  Capability capability;
  std::uint64_t manifest_bytes;
};

struct PackedDone {
  WorkId work;
  std::uint32_t contributors;
  std::uint32_t epoch;
  SeatId seat;
  std::int32_t rank;
  std::int32_t world_size;
  std::uint32_t name_bytes;
  std::uint32_t live;
  std::uint32_t items;
};

struct PackedChange {
  SeatId seat;
  std::uint32_t epoch;
  std::uint32_t live;
  std::uint32_t lost;
};

/// The fields that Contribute and Combine have in common.
template <class Head, class Record>
void take_call(Unpacker& in, const Head& head, Record& record) {
  record.work = named<WorkId>(in, head.work.value, "it names no work");
  record.timeout_ns = head.timeout_ns;
  record.root = head.root;
  record.kind = in.enumerator<Kind>(head.kind, kind_count, "its kind is unknown");
  record.op = in.enumerator<ReduceOp>(head.op, reduce_op_count, "its reduce op is unknown");
  record.layout = in.enumerator<Layout>(head.layout, layout_count, "its layout is unknown");
  in.require(head.timeout_ns >= 0, "its timeout is negative");
}

}  // namespace

void write(const Seal& seal, std::vector<std::byte>& out) {
  Packer(out).fixed(PackedSeal{seal.object, seal.capability, seal.parent, seal.copied_bytes});
  encode(seal.manifest, out);
}

Result<Seal> read_seal(std::span<const std::byte> body) {
  std::optional<Error> error;
  auto result = read<Seal>("seal", body, [&](Unpacker& in, Seal& seal) {
    const auto head = in.fixed<PackedSeal>();
    seal.object = named<ObjectId>(in, head.object.value, "it names no object");
    seal.capability = head.capability;
    seal.parent = head.parent;
    seal.copied_bytes = head.copied_bytes;
    in.require(seal.parent != seal.object, "an object is its own parent");
    const auto packed = in.bytes(in.rest_bytes());
    if (in.problem() != nullptr) return;
    auto manifest = decode(packed);
    if (!manifest) return void(error = manifest.error());
    seal.manifest = std::move(*manifest);
    in.require(seal.copied_bytes <= seal.manifest.bytes(), "more bytes were copied than there are");
  });
  // The manifest's own error says more than that the record is malformed.
  if (error) result = std::move(*error);
  return result;
}

void write(const Contribute& contribute, std::vector<std::byte>& out) {
  const auto fault =
      contribute.fault ? std::string_view(contribute.fault->message()).substr(0, fault_bytes_max) : std::string_view();
  Packer packer(out);
  packer.fixed(PackedContribute{
      contribute.work, contribute.tag, contribute.timeout_ns, contribute.seat, contribute.epoch, contribute.root,
      count_of(contribute.objects.size()), static_cast<std::uint16_t>(contribute.key.size()),
      static_cast<std::uint16_t>(fault.size()), static_cast<std::uint8_t>(contribute.kind),
      static_cast<std::uint8_t>(contribute.op), static_cast<std::uint8_t>(contribute.layout),
      static_cast<std::uint8_t>(contribute.fault ? static_cast<int>(contribute.fault->code()) : 0)});
  packer.numbers(view(contribute.objects));
  packer.text(contribute.key);
  packer.text(fault);
  packer.pad();
}

Result<Contribute> read_contribute(std::span<const std::byte> body) {
  return read<Contribute>("contribute", body, [](Unpacker& in, Contribute& contribute) {
    const auto head = in.fixed<PackedContribute>();
    take_call(in, head, contribute);
    contribute.tag = head.tag;
    contribute.seat = named<SeatId>(in, head.seat.value, "it names no seat");
    contribute.epoch = head.epoch;
    in.require(head.key_bytes <= key_bytes_max, "its key is too long");
    in.require(head.fault_bytes <= fault_bytes_max, "the message of its fault is too long");
    in.require(head.fault != 0 || head.fault_bytes == 0, "a fault has no code");
    in.require(head.fault <= code_count, "the code of its fault is unknown");
    contribute.objects = take_objects(in, head.objects);
    contribute.key = in.text(head.key_bytes);
    auto fault = in.text(head.fault_bytes);
    in.pad();
    if (head.fault != 0) contribute.fault = std::make_shared<Error>(static_cast<Code>(head.fault), std::move(fault));
  });
}

void write(const Combine& combine, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.fixed(PackedCombine{combine.work, combine.timeout_ns, combine.root, combine.ranks,
                             count_of(combine.objects.size()), static_cast<std::uint8_t>(combine.kind),
                             static_cast<std::uint8_t>(combine.op), static_cast<std::uint8_t>(combine.layout), 0});
  packer.numbers(view(combine.objects));
}

Result<Combine> read_combine(std::span<const std::byte> body) {
  return read<Combine>("combine", body, [](Unpacker& in, Combine& combine) {
    const auto head = in.fixed<PackedCombine>();
    take_call(in, head, combine);
    combine.ranks = head.ranks;
    in.require(head.zero == 0, "a reserved field is set");
    in.require(combine.ranks >= 1, "it has no ranks");
    in.require(combine.ranks == 0 || head.objects % combine.ranks == 0,
               "its ranks don't give the same number of objects");
    combine.objects = take_objects(in, head.objects);
  });
}

void write(const Release& release, std::vector<std::byte>& out) { Packer(out).numbers(view(release.objects)); }

Result<Release> read_release(std::span<const std::byte> body) {
  return read<Release>("release", body, [&](Unpacker& in, Release& release) {
    const std::size_t count = body.size() / sizeof(ObjectId);
    in.require(count <= Release::objects_max, "it names too many objects");
    if (in.problem() == nullptr) release.objects = take_objects(in, count);
  });
}

void write(const Pin& pin, std::vector<std::byte>& out) { write_id(pin.object, out); }

Result<Pin> read_pin(std::span<const std::byte> body) {
  return read_id<Pin>("pin", body, &Pin::object, "it names no object");
}

namespace {

void take_item(Unpacker& in, Item& item) {
  const auto head = in.fixed<PackedItem>();
  item.object = named<ObjectId>(in, head.object.value, nameless_object);
  item.capability = head.capability;
  item.described = head.manifest_bytes != 0;
  const auto packed = in.bytes(head.manifest_bytes);
  if (!item.described || in.problem() != nullptr) return;
  auto manifest = decode(packed);
  in.require(manifest.ok(), "a manifest is malformed");
  if (manifest) item.manifest = std::move(*manifest);
}

}  // namespace

DoneWriter::DoneWriter(const Done& done, std::size_t items, std::vector<std::byte>& out) : out_(out) {
  Packer packer(out);
  packer.fixed(PackedDone{done.work, done.contributors, done.epoch, done.seat, done.rank, done.world_size,
                          count_of(done.name.size()), count_of(done.live.size()), count_of(items)});
  packer.numbers(view(done.live));
  packer.text(done.name);
  packer.pad();
}

void DoneWriter::item(ObjectId object, const Capability& capability, const Manifest* manifest) {
  Packer(out_).fixed(PackedItem{object, capability, manifest ? encoded_bytes(*manifest) : 0});
  if (manifest) encode(*manifest, out_);
}

void write(const Done& done, std::vector<std::byte>& out) {
  DoneWriter writer(done, done.items.size(), out);
  for (const auto& item : done.items)
    writer.item(item.object, item.capability, item.described ? &item.manifest : nullptr);
}

void address_done(std::span<std::byte> done, WorkId work) {
  static_assert(offsetof(PackedDone, work) == 0);
  std::memcpy(done.data(), &work.value, sizeof work.value);
}

Result<Done> read_done(std::span<const std::byte> body) {
  return read<Done>("done", body, [](Unpacker& in, Done& done) {
    const auto head = in.fixed<PackedDone>();
    done.work = named<WorkId>(in, head.work.value, "it names no work");
    done.contributors = head.contributors;
    done.epoch = head.epoch;
    done.seat = head.seat;
    done.rank = head.rank;
    done.world_size = head.world_size;
    done.live = in.numbers<std::int32_t>(head.live);
    done.name = in.text(head.name_bytes);
    in.pad();
    // No memory is reserved for the items, as their count is only a claim until they have been read.
    for (std::uint32_t i = 0; i < head.items && in.problem() == nullptr; ++i) take_item(in, done.items.emplace_back());
  });
}

void write(const Failed& failed, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.fixed(failed.work);
  put(packer, failed.error);
}

Result<Failed> read_failed(std::span<const std::byte> body) {
  return read<Failed>("failed", body, [](Unpacker& in, Failed& failed) {
    failed.work = named<WorkId>(in, in.fixed<WorkId>().value, "it names no work");
    failed.error = take_error(in);
  });
}

void write(const ObjectGone& gone, std::vector<std::byte>& out) { write_id(gone.object, out); }

Result<ObjectGone> read_object_gone(std::span<const std::byte> body) {
  return read_id<ObjectGone>("object_gone", body, &ObjectGone::object, "it names no object");
}

void write(const SealFailed& failed, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.fixed(failed.object);
  put(packer, failed.error);
}

Result<SealFailed> read_seal_failed(std::span<const std::byte> body) {
  return read<SealFailed>("seal_failed", body, [](Unpacker& in, SealFailed& failed) {
    failed.object = named<ObjectId>(in, in.fixed<ObjectId>().value, "it names no object");
    failed.error = take_error(in);
  });
}

void write(const Unmapped& unmapped, std::vector<std::byte>& out) { write_id(unmapped.segment, out); }

Result<Unmapped> read_unmapped(std::span<const std::byte> body) {
  return read_id<Unmapped>("unmapped", body, &Unmapped::segment, "it names no segment");
}

void write(const HandOver& hand_over, std::vector<std::byte>& out) { write_id(hand_over.segment, out); }

Result<HandOver> read_hand_over(std::span<const std::byte> body) {
  return read_id<HandOver>("hand_over", body, &HandOver::segment, "it names no segment");
}

void write(const SegmentGone& gone, std::vector<std::byte>& out) { write_id(gone.segment, out); }

Result<SegmentGone> read_segment_gone(std::span<const std::byte> body) {
  return read_id<SegmentGone>("segment_gone", body, &SegmentGone::segment, "it names no segment");
}

void write(const InPlaceOver& over, std::vector<std::byte>& out) { write_id(over.segment, out); }

Result<InPlaceOver> read_in_place_over(std::span<const std::byte> body) {
  return read_id<InPlaceOver>("in_place_over", body, &InPlaceOver::segment, "it names no segment");
}

void write(const MemoryWanted& wanted, std::vector<std::byte>& out) { Packer(out).fixed(wanted.waiting); }

Result<MemoryWanted> read_memory_wanted(std::span<const std::byte> body) {
  return read<MemoryWanted>("memory_wanted", body,
                            [](Unpacker& in, MemoryWanted& wanted) { wanted.waiting = in.fixed<std::uint64_t>(); });
}

void write(const GroupChanged& changed, std::vector<std::byte>& out) {
  Packer packer(out);
  packer.fixed(PackedChange{changed.seat, changed.epoch, count_of(changed.live.size()), count_of(changed.lost.size())});
  packer.numbers(view(changed.live));
  packer.numbers(view(changed.lost));
  packer.pad();
}

Result<GroupChanged> read_group_changed(std::span<const std::byte> body) {
  return read<GroupChanged>("group_changed", body, [](Unpacker& in, GroupChanged& changed) {
    const auto head = in.fixed<PackedChange>();
    changed.seat = named<SeatId>(in, head.seat.value, "it names no seat");
    changed.epoch = head.epoch;
    changed.live = in.numbers<std::int32_t>(head.live);
    changed.lost = in.numbers<std::int32_t>(head.lost);
    in.pad();
  });
}

}  // namespace muster::ipc
