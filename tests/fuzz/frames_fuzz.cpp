// Whatever bytes arrive on a client's socket, either the frame is refused or the node answers it. An input is either
// raw bytes, or choices that make frames, some of whose bytes are then changed.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <muster/ipc/socket.hpp>

#include "memory/backings.hpp"
#include "reach.hpp"
#include "session/frame_builder.hpp"
#include "walk/choices.hpp"

namespace ipc = muster::ipc;
using namespace musterd;
using namespace musterd::testing;

namespace {

Reached& reached() {
  static ReachedAtExit all;
  return all;
}

NodeSettings settings() {
  NodeSettings settings;
  constexpr std::uint64_t budget = 64 << 20;
  settings.quota.total = settings.quota.per_user =
      settings.quota.per_client = {budget, 1024, 256, 1024, 64, budget, 256};
  settings.incarnation = 7;
  return settings;
}

class Connection {
 public:
  Connection() : outside_(reached()), node_(settings(), outside_, backing()) {
    static_cast<void>(node_.connected({1}, {0, 1}, {}));
  }
  ~Connection() { static_cast<void>(node_.disconnected({1}, "died", {})); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void frame(std::span<const std::byte> bytes) {
    if (!ipc::verify_frame(bytes, ipc::Sender::client)) return reached().note("frame refused");
    reached().note("frame " + std::string(wire::EnumNameBody(wire::GetFrame(bytes.data())->body_type())));
    node_.frame({1}, bytes, {});
  }

 private:
  CountingRecorder outside_;
  Node node_;
};

using Built = flatbuffers::Offset<void>;

Built seat_or_segment(Choices& choices, flatbuffers::FlatBufferBuilder& fbb, wire::Body type) {
  const std::uint32_t number = choices.below(4);
  switch (type) {
    case wire::Body_Mapped: return wire::CreateMapped(fbb, number).Union();
    case wire::Body_HardSeal: return wire::CreateHardSeal(fbb, number).Union();
    case wire::Body_Return: return wire::CreateReturn(fbb, number).Union();
    case wire::Body_Map: return wire::CreateMap(fbb, number).Union();
    case wire::Body_Leave: return wire::CreateLeave(fbb, number).Union();
    default: return wire::CreateMissingQuery(fbb, number).Union();
  }
}

Built object_request(Choices& choices, flatbuffers::FlatBufferBuilder& fbb, wire::Body type) {
  const std::uint64_t object = ipc::make_object_id({1}, 1 + choices.below(2)).value;
  if (type == wire::Body_Describe) return wire::CreateDescribe(fbb, object).Union();
  const wire::Capability shown(choices.below(2), 0);
  return wire::CreateLookup(fbb, 7 - choices.below(2), object, choices.once_in(2),
                            choices.once_in(4) ? nullptr : &shown)
      .Union();
}

/// A seal of an object without bytes, which needs no segment.
Built submit(Choices& choices, flatbuffers::FlatBufferBuilder& fbb) {
  if (choices.once_in(8)) return wire::CreateSubmit(fbb, static_cast<std::uint16_t>(choices.below(9))).Union();
  ipc::Seal seal;
  seal.object = ipc::make_object_id({1 + choices.below(2)}, 1 + choices.below(2));
  const std::int64_t shape[]{choices.below(2)};
  if (!seal.manifest.add({1}, 0, muster::DType::int8, shape)) return {};
  std::vector<std::byte> body;
  ipc::write(seal, body);
  const auto vector = fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(body.data()), body.size());
  return wire::CreateSubmit(fbb, static_cast<std::uint16_t>(ipc::SubmissionType::seal), vector).Union();
}

Built token_request(Choices& choices, flatbuffers::FlatBufferBuilder& fbb, wire::Body type) {
  const auto name = choices.once_in(8) ? 0 : fbb.CreateString(choices.one_of<const char*>({"a", "b", "", "\n"}));
  if (type == wire::Body_OpenToken) return wire::CreateOpenToken(fbb, name).Union();
  if (type == wire::Body_EndToken) return wire::CreateEndToken(fbb, name).Union();
  return wire::CreateKeepFor(fbb, name, ipc::make_object_id({1}, 1 + choices.below(2)).value).Union();
}

Built join(Choices& choices, flatbuffers::FlatBufferBuilder& fbb) {
  const auto name = fbb.CreateString(choices.one_of<const char*>({"a", "b", "", "\n"}));
  return wire::CreateJoin(fbb, name, static_cast<int>(choices.below(3)), static_cast<int>(choices.below(3)), 100,
                          static_cast<std::uint8_t>(choices.below(4)), choices.once_in(2))
      .Union();
}

Built hello(Choices& choices, flatbuffers::FlatBufferBuilder& fbb) {
  const auto name = fbb.CreateString("fuzz");
  return wire::CreateHello(fbb, choices.once_in(16) ? 2 : ipc::protocol_version, name, 100, !choices.once_in(4))
      .Union();
}

Built body_of(Choices& choices, flatbuffers::FlatBufferBuilder& fbb, wire::Body type) {
  switch (type) {
    case wire::Body_Hello: return hello(choices, fbb);
    case wire::Body_Lease: {
      const wire::Device device(choices.once_in(4) ? choices.byte() : 0, choices.once_in(8) ? choices.byte() : 0);
      return wire::CreateLease(fbb, 1ULL << choices.below(40), choices.byte(), choices.once_in(2), &device).Union();
    }
    case wire::Body_LeaveInPlace: {
      const wire::Device device(choices.once_in(2) ? 2 : choices.byte(), choices.once_in(2) ? 0 : choices.byte());
      const auto memory = ipc::in_place_as<wire::InPlace>(ipc::InPlaceMemory{1ULL << choices.below(64), {}, {}});
      return wire::CreateLeaveInPlace(fbb, choices.once_in(8) ? nullptr : &device,
                                      choices.once_in(8) ? nullptr : &memory, choices.byte())
          .Union();
    }
    case wire::Body_Lookup:
    case wire::Body_Describe: return object_request(choices, fbb, type);
    case wire::Body_Submit: return submit(choices, fbb);
    case wire::Body_Join: return join(choices, fbb);
    case wire::Body_OpenToken:
    case wire::Body_KeepFor:
    case wire::Body_EndToken: return token_request(choices, fbb, type);
    case wire::Body_Fork: return wire::CreateFork(fbb).Union();
    case wire::Body_StatusQuery: return wire::CreateStatusQuery(fbb).Union();
    case wire::Body_ObjectsQuery: return wire::CreateObjectsQuery(fbb, choices.below(3)).Union();
    case wire::Body_GroupsQuery: return wire::CreateGroupsQuery(fbb).Union();
    case wire::Body_ClientsQuery: return wire::CreateClientsQuery(fbb).Union();
    case wire::Body_Stop: return wire::CreateStop(fbb).Union();
    default: return seat_or_segment(choices, fbb, type);
  }
}

std::vector<std::byte> make_frame(Choices& choices, wire::Body type) {
  FrameBuilder out(choices.byte());
  const auto body = body_of(choices, out.fbb, type);
  auto bytes = out.finish(type, body);
  if (!choices.once_in(4)) return bytes;
  for (auto changes = choices.below(4); changes > 0; --changes)
    bytes[(choices.byte() + 256U * choices.byte()) % bytes.size()] ^= std::byte{choices.byte()};
  return bytes;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t size_max,
                                               unsigned seed) {
  return mutate_choices(data, size, size_max, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices choices({data, size});
  Connection connection;
  if (choices.byte() % 4 == 0) {
    // At an aligned address, as in the server.
    const auto bytes = std::as_bytes(choices.rest());
    const std::vector<std::byte> rest(bytes.begin(), bytes.end());
    connection.frame(rest);
    connection.frame(rest);
    return 0;
  }
  if (!choices.once_in(8)) connection.frame(make_frame(choices, wire::Body_Hello));
  constexpr int frames_max = 40;
  for (int i = 0; i < frames_max && !choices.empty(); ++i) {
    const auto type = static_cast<wire::Body>(1 + choices.below(wire::Body_Stop));
    if (type == wire::Body_Hello && !choices.once_in(8)) continue;
    connection.frame(make_frame(choices, type));
  }
  return 0;
}
