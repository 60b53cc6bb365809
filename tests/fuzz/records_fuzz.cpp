// Whatever bytes a client writes into its ring, every reader must return Invalid or a value that writes back the same.
// An input is either raw bytes, or choices that make a record, some of whose bytes are then changed.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include <muster/ipc/records.hpp>

#include "reach.hpp"
#include "walk/choices.hpp"

namespace ipc = muster::ipc;
using namespace musterd::testing;

namespace {

Reached& reached() {
  static ReachedAtExit all;
  return all;
}

/// A value that was read must be written to bytes that read the same.
template <class Value, class Read>
void round_trip(const char* what, std::span<const std::byte> body, Read read) {
  const muster::Result<Value> value = read(body);
  reached().note(std::string(what) + (value ? " -> read" : " -> Invalid"));
  if (!value) {
    if (value.error().code() != muster::Code::invalid) std::abort();
    return;
  }
  std::vector<std::byte> bytes;
  ipc::write(*value, bytes);
  if (!read(std::span<const std::byte>(bytes)).ok()) std::abort();
}

void manifest_round_trip(std::span<const std::byte> body) {
  auto manifest = ipc::decode(body);
  reached().note(manifest ? "manifest -> read" : "manifest -> Invalid");
  if (!manifest) return;
  std::vector<std::byte> bytes;
  ipc::encode(*manifest, bytes);
  if (!ipc::decode(bytes).ok()) std::abort();
}

constexpr std::size_t types = 16;

void read_as(std::size_t type, std::span<const std::byte> body) {
  switch (type) {
    case 0: return round_trip<ipc::Seal>("seal", body, ipc::read_seal);
    case 1: return round_trip<ipc::Contribute>("contribute", body, ipc::read_contribute);
    case 2: return round_trip<ipc::Combine>("combine", body, ipc::read_combine);
    case 3: return round_trip<ipc::Release>("release", body, ipc::read_release);
    case 4: return round_trip<ipc::Pin>("pin", body, ipc::read_pin);
    case 5: return round_trip<ipc::Done>("done", body, ipc::read_done);
    case 6: return round_trip<ipc::Failed>("failed", body, ipc::read_failed);
    case 7: return round_trip<ipc::ObjectGone>("object_gone", body, ipc::read_object_gone);
    case 8: return round_trip<ipc::SealFailed>("seal_failed", body, ipc::read_seal_failed);
    case 9: return round_trip<ipc::GroupChanged>("group_changed", body, ipc::read_group_changed);
    case 10: return round_trip<ipc::Unmapped>("unmapped", body, ipc::read_unmapped);
    case 11: return round_trip<ipc::SegmentGone>("segment_gone", body, ipc::read_segment_gone);
    case 12: return round_trip<ipc::MemoryWanted>("memory_wanted", body, ipc::read_memory_wanted);
    case 13: return round_trip<ipc::HandOver>("hand_over", body, ipc::read_hand_over);
    case 14: return round_trip<ipc::InPlaceOver>("in_place_over", body, ipc::read_in_place_over);
    default: return manifest_round_trip(body);
  }
}

class Maker {
 public:
  explicit Maker(Choices& choices) : choices_(choices) {}

  std::vector<std::byte> make(std::size_t type) {
    switch (type) {
      case 0: return bytes_of(ipc::Seal{object(), {{1, 2}}, object(), choices_.byte(), manifest()});
      case 1: return bytes_of(contribute());
      case 2: return bytes_of(combine());
      case 3: return bytes_of(ipc::Release{objects(1 + choices_.below(4))});
      case 4: return bytes_of(ipc::Pin{object()});
      case 5: return bytes_of(done());
      case 6: return bytes_of(ipc::Failed{{choices_.byte()}, error()});
      case 7: return bytes_of(ipc::ObjectGone{object()});
      case 8: return bytes_of(ipc::SealFailed{object(), error()});
      case 9: return bytes_of(ipc::GroupChanged{{choices_.byte()}, choices_.byte(), ranks(), ranks()});
      case 10: return bytes_of(ipc::Unmapped{{choices_.byte()}});
      case 11: return bytes_of(ipc::SegmentGone{{choices_.byte()}});
      case 12: return bytes_of(ipc::MemoryWanted{choices_.byte()});
      case 13: return bytes_of(ipc::HandOver{{choices_.byte()}});
      case 14: return bytes_of(ipc::InPlaceOver{{choices_.byte()}});
      default: {
        std::vector<std::byte> bytes;
        ipc::encode(manifest(), bytes);
        return bytes;
      }
    }
  }

 private:
  template <class Record>
  static std::vector<std::byte> bytes_of(const Record& record) {
    std::vector<std::byte> bytes;
    ipc::write(record, bytes);
    return bytes;
  }
  ipc::ObjectId object() { return ipc::make_object_id({choices_.below(4)}, 1 + choices_.below(9)); }
  ipc::ObjectIds objects(std::size_t count) {
    ipc::ObjectIds ids;
    while (ids.size() < count) ids.push_back(object());
    return ids;
  }
  std::vector<std::int32_t> ranks() {
    std::vector<std::int32_t> all;
    for (auto count = choices_.below(4); count > 0; --count) all.push_back(choices_.byte());
    return all;
  }
  muster::Error error() {
    return {static_cast<muster::Code>(1 + choices_.below(13)),
            std::string(choices_.below(9), 'm'),
            std::string(choices_.below(9), 'h'),
            {1, 2}};
  }
  ipc::Manifest manifest() {
    ipc::Manifest made;
    for (auto leaves = choices_.below(3); leaves > 0; --leaves) {
      const std::int64_t shape[]{choices_.byte(), 3};
      const bool added = made.add({1 + choices_.below(8)}, std::uint64_t{choices_.byte()} * 64,
                                  static_cast<muster::DType>(choices_.below(muster::dtype_count)), shape)
                             .ok();
      if (!added) break;
    }
    made.structure.assign(choices_.below(20), 's');
    made.guise.assign(choices_.below(3), 'A');
    return made;
  }
  template <class Call>
  void fill(Call& call) {
    call.work = {choices_.byte()};
    call.kind = static_cast<ipc::Kind>(choices_.below(ipc::kind_count));
    call.op = static_cast<muster::ReduceOp>(choices_.below(muster::reduce_op_count));
    call.layout = static_cast<ipc::Layout>(choices_.below(ipc::layout_count));
    call.root = choices_.byte() - 1;
    call.timeout_ns = choices_.byte();
  }
  ipc::Contribute contribute() {
    ipc::Contribute made;
    fill(made);
    made.seat = {choices_.byte()};
    made.epoch = choices_.byte();
    made.objects = objects(choices_.below(4));
    made.key.assign(choices_.below(20), 'k');
    return made;
  }
  ipc::Combine combine() {
    ipc::Combine made;
    fill(made);
    made.ranks = 1 + choices_.below(4);
    made.objects = objects(std::size_t{made.ranks} * (1 + choices_.below(2)));
    return made;
  }
  ipc::Done done() {
    ipc::Done made;
    made.work = {choices_.byte()};
    made.contributors = choices_.byte();
    made.name.assign(choices_.below(9), 'n');
    made.live = ranks();
    for (auto items = choices_.below(3); items > 0; --items)
      made.items.push_back({object(), {{3, 4}}, choices_.once_in(2), manifest()});
    for (auto& item : made.items)
      if (!item.described) item.manifest = {};
    return made;
  }
  Choices& choices_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices choices({data, size});
  const std::uint32_t way = choices.byte();
  const std::size_t type = way % types;
  if (way < 128) {
    const auto rest = choices.rest();
    read_as(type, std::as_bytes(rest));
    return 0;
  }
  auto bytes = Maker(choices).make(type);
  for (auto changes = choices.below(3); changes > 0 && !bytes.empty(); --changes)
    bytes[(choices.byte() + 256U * choices.byte()) % bytes.size()] ^= std::byte{choices.byte()};
  if (choices.once_in(8)) bytes.resize(bytes.size() - std::min<std::size_t>(bytes.size(), choices.byte()));
  read_as(type, bytes);
  return 0;
}
