// Whole sessions: clients greet, lease, seal, join, contribute, release, leave and die in any order, with arguments
// from the input, so that most are wrong and some are right. Nothing may crash, and once all clients are gone nothing
// may be held.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <tuple>
#include <utility>
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

class Session {
 public:
  Session(const std::uint8_t* data, std::size_t size)
      : input_({data, size}), outside_(reached()), node_(settings(), outside_, backing()) {}

  void run() {
    constexpr int events_max = 400;
    for (int i = 0; i < events_max && !input_.empty(); ++i) step();
    for (std::uint32_t id = 1; id <= last_client_; ++id) static_cast<void>(node_.disconnected({id}, "died", now_));
    outside_.jobs.end_all();
    for (const auto heir : outside_.lifelines) node_.lifeline_closed(heir, now_);
    now_ += std::chrono::hours(1);
    node_.tick(now_);
    if (node_.clients() != 0 || node_.ops_in_flight() != 0) std::abort();
  }

 private:
  static NodeSettings settings() {
    NodeSettings settings;
    constexpr std::uint64_t budget = 4 << 20;
    settings.quota.total = settings.quota.per_user = {budget, 64, 64, 64, 8, budget, 48};
    settings.quota.per_client = {budget / 2, 16, 16, 16, 8, budget / 2, 12};
    settings.in_flight_max = 8;
    settings.memory_waiters_max = 4;
    return settings;
  }

  /// One of the latest clients, which may be gone.
  ClientId client() { return {last_client_ - std::min(last_client_, input_.below(3))}; }
  ipc::ObjectId object() {
    const auto maker = input_.once_in(4) ? 0 : client().value;
    return ipc::make_object_id({maker}, 1 + input_.below(6));
  }

  void frame(wire::Body type, FrameBuilder& frame, flatbuffers::Offset<void> body) {
    send(client(), type, frame, body);
  }
  void send(ClientId id, wire::Body type, FrameBuilder& frame, flatbuffers::Offset<void> body) {
    reached().note("frame " + std::string(wire::EnumNameBody(type)));
    const auto bytes = frame.finish(type, body);
    node_.frame(id, bytes, now_);
  }

  void connect() {
    constexpr std::uint32_t clients_max = 24;
    if (last_client_ >= clients_max) return;
    if (!node_.connected({++last_client_}, {input_.once_in(4) ? 1U : 0U, 1}, now_)) return;
    if (input_.once_in(8)) return;
    FrameBuilder out(1);
    send({last_client_}, wire::Body_Hello, out, wire::CreateHello(out.fbb, ipc::protocol_version).Union());
  }

  /// Mostly tells the node at once that it has mapped the segment.
  void lease() {
    const ClientId id = client();
    FrameBuilder out(1);
    send(id, wire::Body_Lease, out,
         wire::CreateLease(out.fbb, 1ULL << input_.below(24), input_.byte(), input_.once_in(8)).Union());
    const auto& frames = outside_.frames[id];
    const auto* segment = frames.empty() ? nullptr : wire::GetFrame(frames.back().data())->body_as_Segment();
    if (!segment || input_.once_in(4)) return;
    FrameBuilder mapped(2);
    send(id, wire::Body_Mapped, mapped, wire::CreateMapped(mapped.fbb, segment->segment()).Union());
  }

  void join() {
    const ClientId id = client();
    FrameBuilder out(1);
    const auto name = out.fbb.CreateString(input_.one_of<const char*>({"a", "b"}));
    const auto body = wire::CreateJoin(
        out.fbb, name, static_cast<int>(input_.below(3)), 1 + static_cast<int>(input_.below(2)), 100,
        static_cast<std::uint8_t>(input_.below(3)), input_.once_in(4), input_.once_in(2) ? 1 << 16 : 0);
    send(id, wire::Body_Join, out, body.Union());
    const auto& frames = outside_.frames[id];
    const auto* joined = frames.empty() ? nullptr : wire::GetFrame(frames.back().data())->body_as_Joined();
    if (joined) seats_.emplace_back(id, SeatId{joined->seat()});
  }

  void step() {
    now_ += std::chrono::milliseconds(input_.below(8));
    FrameBuilder out(1);
    auto& fbb = out.fbb;
    switch (input_.below(17)) {
      case 0: return connect();
      case 1:
        if (!input_.once_in(8)) return connect();
        return frame(wire::Body_Hello, out, wire::CreateHello(fbb, ipc::protocol_version).Union());
      case 2: return lease();
      case 3: return frame(wire::Body_Mapped, out, wire::CreateMapped(fbb, input_.below(8)).Union());
      case 4: return frame(wire::Body_Return, out, wire::CreateReturn(fbb, input_.below(8)).Union());
      case 5: return frame(wire::Body_Map, out, wire::CreateMap(fbb, input_.below(8)).Union());
      case 6: return join();
      case 7: return frame(wire::Body_Leave, out, wire::CreateLeave(fbb, input_.below(8)).Union());
      case 8: {
        const wire::Capability capability(input_.below(2), 0);
        return frame(wire::Body_Lookup, out,
                     wire::CreateLookup(fbb, 1, object().value, input_.once_in(2), &capability).Union());
      }
      case 9: return frame(wire::Body_HardSeal, out, wire::CreateHardSeal(fbb, input_.below(8)).Union());
      case 10: return seal();
      case 11: return contribute();
      case 12: return combine();
      case 13:
        if (!input_.once_in(4)) return contribute();
        return record(ipc::SubmissionType::release, ipc::Release{{object()}});
      case 14: return record(ipc::SubmissionType::pin, ipc::Pin{object()});
      case 15:
        if (!input_.once_in(4)) return contribute();
        return static_cast<void>(node_.disconnected(client(), "died", now_));
      default:
        outside_.jobs.hold = input_.below(2) == 1;
        outside_.jobs.end_all();
        return node_.tick(now_);
    }
  }

  template <class Record>
  void record(ipc::SubmissionType type, const Record& value) {
    record(client(), type, value);
  }
  template <class Record>
  void record(ClientId id, ipc::SubmissionType type, const Record& value) {
    std::vector<std::byte> body;
    ipc::write(value, body);
    reached().note("record " + std::string(name(type)));
    node_.record(id, type, body, now_);
  }

  void seal() {
    ipc::Seal seal;
    seal.object = object();
    seal.capability = {{input_.below(2), 0}};
    if (input_.below(4) == 0) seal.parent = object();
    const auto leaves = input_.below(3);
    for (std::uint32_t i = 0; i < leaves; ++i) {
      const std::int64_t shape[]{static_cast<std::int64_t>(input_.byte()), 3};
      if (!seal.manifest.add({input_.below(8)}, std::uint64_t{input_.byte()} * 64,
                             static_cast<muster::DType>(input_.below(15)), shape))
        return;
    }
    record(ipc::SubmissionType::seal, seal);
  }

  void contribute() {
    ipc::Contribute contribute;
    contribute.work = {++last_work_};
    auto [id, seat] = std::pair(client(), SeatId{input_.below(8)});
    if (!seats_.empty() && !input_.once_in(8)) std::tie(id, seat) = input_.one_of(seats_);
    contribute.seat = seat;
    contribute.epoch = input_.once_in(8) ? 0 : 3;
    contribute.kind = input_.once_in(2) ? ipc::Kind::barrier : static_cast<ipc::Kind>(input_.below(14));
    contribute.op = static_cast<muster::ReduceOp>(input_.below(10));
    contribute.layout = static_cast<ipc::Layout>(input_.below(3));
    contribute.root = static_cast<std::int32_t>(input_.below(4)) - 1;
    contribute.timeout_ns = input_.byte() * 1'000'000;
    const auto objects = contribute.kind == ipc::Kind::barrier ? 0 : input_.below(4);
    for (std::uint32_t i = 0; i < objects; ++i) contribute.objects.push_back(object());
    if (input_.below(3) == 0) contribute.key = "k";
    reached().note("contribute " + std::string(ipc::name(contribute.kind)));
    record(id, ipc::SubmissionType::contribute, contribute);
  }

  void combine() {
    ipc::Combine combine;
    combine.work = {++last_work_};
    combine.kind = static_cast<ipc::Kind>(input_.below(14));
    combine.op = static_cast<muster::ReduceOp>(input_.below(10));
    combine.layout = static_cast<ipc::Layout>(input_.below(3));
    combine.root = static_cast<std::int32_t>(input_.below(4)) - 1;
    combine.ranks = input_.below(4);
    combine.timeout_ns = input_.byte() * 1'000'000;
    const auto objects = input_.below(5);
    for (std::uint32_t i = 0; i < objects; ++i) combine.objects.push_back(object());
    reached().note("combine " + std::string(ipc::name(combine.kind)));
    record(ipc::SubmissionType::combine, combine);
  }

  Choices input_;
  CountingRecorder outside_;
  Node node_;
  TimePoint now_{};
  std::vector<std::pair<ClientId, SeatId>> seats_;
  std::uint32_t last_client_ = 0;
  std::uint64_t last_work_ = 0;
};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t size_max,
                                               unsigned seed) {
  return mutate_choices(data, size, size_max, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Session(data, size).run();
  return 0;
}
