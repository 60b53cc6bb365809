// A client as the node sees it: it sends frames and records, and reads what the Recorder kept for it.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <muster/ipc/records.hpp>
#include <muster/ipc/socket.hpp>

#include "memory/backings.hpp"
#include "recorder.hpp"
#include "session/frame_builder.hpp"
#include "walk/audit.hpp"

namespace musterd::testing {

namespace ipc = muster::ipc;

inline NodeSettings small_settings() {
  NodeSettings settings;
  settings.version = "test";
  settings.incarnation = 7;
  constexpr std::uint64_t budget = 64 << 20;
  settings.quota.total = settings.quota.per_user =
      settings.quota.per_client = {budget, 4096, 256, 4096, 64, budget, 4096};
  return settings;
}

/// One node with its recorder, and a clock that moves only when told to.
struct World {
  explicit World(NodeSettings settings = small_settings(),
                 std::unique_ptr<Recorder> recorder = std::make_unique<Recorder>(), Backings made_of = backing())
      : recorder_(std::move(recorder)), outside(*recorder_), node(std::move(settings), outside, std::move(made_of)) {}
  void advance(Duration duration) {
    now += duration;
    node.tick(now);
    outside.settle();
  }
  /// Runs one turn of the work that the node has begun.
  void go_on() {
    node.go_on(now);
    outside.settle();
  }

 private:
  std::unique_ptr<Recorder> recorder_;

 public:
  Recorder& outside;
  Node node;
  TimePoint now{std::chrono::hours(1)};
  std::function<void(bool)> on_call = [](bool /*begins*/) {
  };  ///< called by each client before and after a call of the node
};

class TestClient {
 public:
  /// A client that is a process of its own.
  TestClient(World& world, std::uint32_t id, std::uint32_t user = 0)
      : TestClient(world, id, Credentials{user, static_cast<std::int32_t>(1000 + id)}) {}
  TestClient(World& world, std::uint32_t id, Credentials credentials) : TestClient(world, id, credentials, true) {
    if (!welcomed()) throw std::runtime_error("no welcome");
  }
  /// A client whose Welcome may not come at once.
  static TestClient not_yet_welcome(World& world, std::uint32_t id, bool rings) {
    return {world, id, {0, static_cast<std::int32_t>(1000 + id)}, rings};
  }
  [[nodiscard]] bool welcomed() { return replies() > 0 && reply().body_type() == wire::Body_Welcome; }

  [[nodiscard]] ClientId id() const { return id_; }
  void die() {
    static_cast<void>(world_.node.disconnected(id_, "died", world_.now));
    world_.node.disposed(world_.now);  // its rings are unmapped
    world_.outside.settle();
  }

  void ask(FrameBuilder& out, wire::Body type, flatbuffers::Offset<void> body) {
    const auto bytes = out.finish(type, body);
    world_.on_call(true);
    world_.node.frame(id_, bytes, world_.now);
    world_.on_call(false);
    world_.outside.settle();
  }
  /// The latest frame that this client got.
  [[nodiscard]] const wire::Frame& reply() {
    auto& frames = world_.outside.frames[id_];
    if (frames.empty()) throw std::runtime_error("no reply");
    return *wire::GetFrame(frames.back().data());
  }
  [[nodiscard]] std::size_t replies() { return world_.outside.frames[id_].size(); }
  [[nodiscard]] muster::Code failure() {
    const auto* failure = reply().body_as_Failure();
    if (!failure) throw std::runtime_error("the reply is no failure");
    return static_cast<muster::Code>(failure->code());
  }

  void map(ipc::SegmentId segment) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Map, wire::CreateMap(out.fbb, segment.value).Union());
    if (!reply().body_as_Segment()) throw std::runtime_error("no segment to read");
  }
  void ask_lease(std::uint64_t bytes, std::uint32_t timeout_ms = 1000, bool hard = false,
                 std::optional<wire::Device> device = {}) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Lease,
        wire::CreateLease(out.fbb, bytes, timeout_ms, hard, device ? &*device : nullptr).Union());
  }
  /// Asks to leave an allocation of so many bytes in place on the device.
  void ask_leave_in_place(std::uint64_t bytes, std::optional<wire::Device> device, bool named = true,
                          std::uint32_t timeout_ms = 1000) {
    FrameBuilder out(++request_);
    ipc::InPlaceMemory memory{bytes, {}, {}};
    memory.handle.fill(static_cast<std::uint8_t>(request_));
    const auto there = ipc::in_place_as<wire::InPlace>(memory);
    ask(out, wire::Body_LeaveInPlace,
        wire::CreateLeaveInPlace(out.fbb, device ? &*device : nullptr, named ? &there : nullptr, timeout_ms).Union());
  }
  void ask_map(ipc::SegmentId segment) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Map, wire::CreateMap(out.fbb, segment.value).Union());
  }
  /// Tells the node that it has mapped a segment. The reply may not come at once.
  void mapped(ipc::SegmentId segment) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Mapped, wire::CreateMapped(out.fbb, segment.value).Union());
  }
  void hard_seal(ipc::SegmentId segment) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_HardSeal, wire::CreateHardSeal(out.fbb, segment.value).Union());
  }
  /// Leases and maps a segment; returns its id.
  ipc::SegmentId lease(std::uint64_t bytes) {
    world_.outside.last_fd.reset();
    ask_lease(bytes);
    const auto* segment = reply().body_as_Segment();
    if (!segment) throw std::runtime_error("no segment");
    const ipc::SegmentId id{segment->segment()};
    const int sent = world_.outside.last_fd.get();
    memory_ = WriterMapping::map(*NodeAudit(world_.node).segment(id), {&sent, sent < 0 ? 0U : 1U});
    world_.outside.last_fd.reset();
    mapped(id);
    if (reply().body_type() != wire::Body_Ok) throw std::runtime_error("not mapped");
    return id;
  }

  /// What waits for memory may be answered after it.
  void ask_return(ipc::SegmentId segment) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Return, wire::CreateReturn(out.fbb, segment.value).Union());
  }
  void give_back(ipc::SegmentId segment) {
    ask_return(segment);
    if (reply().body_type() != wire::Body_Ok) throw std::runtime_error("not given back");
  }

  /// Writes `values` at `offset` of its segment and seals them as an object.
  ipc::ObjectId seal(ipc::SegmentId segment, std::uint64_t offset, const std::vector<float>& values) {
    std::memcpy(memory_.data() + offset, values.data(), values.size() * sizeof(float));
    ipc::Seal seal;
    seal.object = ipc::make_object_id(id_, ++objects_);
    seal.capability = {{42, objects_}};
    const std::int64_t shape[]{static_cast<std::int64_t>(values.size())};
    seal.manifest.add(segment, offset, muster::DType::float32, shape).value();
    return record_seal(seal);
  }

  const wire::Joined* join(const std::string& group, int rank, int world_size,
                           muster::OnLoss on_loss = muster::OnLoss::fail, bool open = false,
                           std::uint64_t history_bytes = 0) {
    FrameBuilder out(++request_);
    auto name = out.fbb.CreateString(group);
    ask(out, wire::Body_Join,
        wire::CreateJoin(out.fbb, name, rank, world_size, 30'000, static_cast<std::uint8_t>(on_loss), open,
                         history_bytes)
            .Union());
    const auto* joined = reply().body_as_Joined();
    if (joined) seat = {joined->seat()};
    if (joined) epoch = joined->epoch();
    return joined;
  }
  void stop() {
    FrameBuilder out(++request_);
    const auto reason = out.fbb.CreateString("");
    ask(out, wire::Body_Stop, wire::CreateStop(out.fbb, reason).Union());
  }
  const flatbuffers::Vector<flatbuffers::Offset<wire::ObjectInfo>>& objects() {
    FrameBuilder out(++request_);
    ask(out, wire::Body_ObjectsQuery, wire::CreateObjectsQuery(out.fbb).Union());
    return *reply().body_as_Objects()->objects();
  }
  const wire::Groups& groups() {
    FrameBuilder out(++request_);
    ask(out, wire::Body_GroupsQuery, wire::CreateGroupsQuery(out.fbb).Union());
    return *reply().body_as_Groups();
  }
  /// Returns the ranks that this work of the client still waits for.
  std::vector<int> missing(ipc::WorkId work) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_MissingQuery, wire::CreateMissingQuery(out.fbb, work.value).Union());
    const auto& ranks = *reply().body_as_Missing()->ranks();
    return {ranks.begin(), ranks.end()};
  }
  const wire::StatusReply& status() {
    FrameBuilder out(++request_);
    ask(out, wire::Body_StatusQuery, wire::CreateStatusQuery(out.fbb).Union());
    return *reply().body_as_StatusReply();
  }
  /// Takes a hold of an object that was sealed with this capability.
  void look_up(ipc::ObjectId object, ipc::Capability shown) {
    FrameBuilder out(++request_);
    const wire::Capability capability(shown.bits[0], shown.bits[1]);
    constexpr std::uint64_t incarnation = 7;
    ask(out, wire::Body_Lookup, wire::CreateLookup(out.fbb, incarnation, object.value, true, &capability).Union());
  }
  void fork() {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Fork, wire::CreateFork(out.fbb).Union());
  }
  void leave() {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Leave, wire::CreateLeave(out.fbb, seat.value).Union());
  }

  ipc::WorkId contribute(ipc::Kind kind, ipc::ObjectIds objects = {}, int root = 0,
                         Duration timeout = std::chrono::seconds(30), std::string key = {}) {
    return contribute_as({++works_}, kind, std::move(objects), root, timeout, std::move(key));
  }
  ipc::WorkId contribute_as(ipc::WorkId work, ipc::Kind kind, ipc::ObjectIds objects = {}, int root = 0,
                            Duration timeout = std::chrono::seconds(30), std::string key = {}) {
    ipc::Contribute contribute;
    contribute.work = work;
    contribute.seat = seat;
    contribute.epoch = epoch;
    contribute.kind = kind;
    contribute.root = root;
    contribute.timeout_ns = timeout.count();
    contribute.objects = std::move(objects);
    contribute.key = std::move(key);
    record(ipc::SubmissionType::contribute, contribute);
    return contribute.work;
  }

  template <class Record>
  void record(ipc::SubmissionType type, const Record& value) {
    std::vector<std::byte> body;
    ipc::write(value, body);
    world_.on_call(true);
    world_.node.record(id_, type, body, world_.now);
    world_.on_call(false);
    world_.outside.settle();
    if constexpr (std::is_same_v<Record, ipc::Release>)
      for (const auto object : value.objects) end_token(object);
  }

  void open_token(const std::string& name) {
    FrameBuilder out(++request_);
    const auto text = out.fbb.CreateString(name);
    ask(out, wire::Body_OpenToken, wire::CreateOpenToken(out.fbb, text).Union());
  }
  void keep_for(const std::string& token, ipc::ObjectId object) {
    FrameBuilder out(++request_);
    const auto text = out.fbb.CreateString(token);
    ask(out, wire::Body_KeepFor, wire::CreateKeepFor(out.fbb, text, object.value).Union());
  }
  void end_token(const std::string& name) {
    FrameBuilder out(++request_);
    const auto text = out.fbb.CreateString(name);
    ask(out, wire::Body_EndToken, wire::CreateEndToken(out.fbb, text).Union());
  }

  /// Returns the manifest with which the daemon describes the object.
  ipc::Manifest describe(ipc::ObjectId object) {
    FrameBuilder out(++request_);
    ask(out, wire::Body_Describe, wire::CreateDescribe(out.fbb, object.value).Union());
    const auto* described = reply().body_as_Object();
    if (!described) throw std::runtime_error("no description");
    return ipc::decode(std::as_bytes(std::span(described->manifest()->data(), described->manifest()->size()))).value();
  }
  /// Seals an object with a copy of this manifest, which may name parts of `parent`.
  ipc::ObjectId seal(ipc::Manifest manifest, ipc::ObjectId parent) {
    ipc::Seal seal;
    seal.object = ipc::make_object_id(id_, ++objects_);
    seal.capability = {{42, objects_}};
    seal.parent = parent;
    seal.manifest = std::move(manifest);
    return record_seal(seal);
  }

  /// Returns the work's Done, if it has come.
  std::optional<ipc::Done> done(ipc::WorkId work) {
    for (const auto& completion : world_.outside.completions[id_]) {
      if (completion.type != ipc::CompletionType::done) continue;
      auto done = ipc::read_done(completion.body).value();
      if (done.work == work) return done;
    }
    return std::nullopt;
  }
  std::optional<muster::Error> failed(ipc::WorkId work) {
    for (const auto& completion : world_.outside.completions[id_]) {
      if (completion.type != ipc::CompletionType::failed) continue;
      auto failed = ipc::read_failed(completion.body).value();
      if (failed.work == work) return failed.error;
    }
    return std::nullopt;
  }
  [[nodiscard]] std::size_t count(ipc::CompletionType type) {
    std::size_t found = 0;
    for (const auto& completion : world_.outside.completions[id_]) found += completion.type == type;
    return found;
  }

  ipc::SeatId seat;
  std::uint32_t epoch = 0;

 private:
  /// With MUSTER_TEST_HOLDER=token every object that a client seals has a token of the client as its holder, too, until
  /// the client releases the object or dies. So the session's suites run once more with such a holder.
  static bool uses_tokens() {
    const char* chosen = std::getenv("MUSTER_TEST_HOLDER");
    return chosen && std::string_view(chosen) == "token";
  }
  ipc::ObjectId record_seal(const ipc::Seal& seal) {
    record(ipc::SubmissionType::seal, seal);
    if (!uses_tokens()) return seal.object;
    const std::string name = ipc::text_of(seal.object);
    open_token(name);
    forget_reply();
    keep_for(name, seal.object);
    if (forget_reply()) tokens_.insert(seal.object);
    return seal.object;
  }
  void end_token(ipc::ObjectId object) {
    if (tokens_.erase(object) == 0) return;
    end_token(ipc::text_of(object));
    if (!forget_reply()) throw std::runtime_error("the token did not end");
  }
  /// Takes the latest frame out. True if it was an Ok.
  bool forget_reply() {
    const bool ok = reply().body_type() == wire::Body_Ok;
    world_.outside.frames[id_].pop_back();
    return ok;
  }

  TestClient(World& world, std::uint32_t id, Credentials credentials, bool rings) : world_(world), id_{id} {
    constexpr std::uint32_t timeout_ms = 1000;
    if (!world_.node.connected(id_, credentials, world_.now)) return;
    FrameBuilder out(++request_);
    const auto name = out.fbb.CreateString("test");
    ask(out, wire::Body_Hello, wire::CreateHello(out.fbb, ipc::protocol_version, name, timeout_ms, rings).Union());
  }

  World& world_;
  ClientId id_;
  WriterMapping memory_;
  std::uint64_t request_ = 0;
  std::uint32_t objects_ = 0;
  std::uint64_t works_ = 0;
  std::set<ipc::ObjectId> tokens_;  ///< its objects that a token keeps, see uses_tokens()
};

/// Two clients with both seats of a group.
struct TwoRanks {
  explicit TwoRanks(NodeSettings settings = small_settings()) : world(std::move(settings)) {
    first.join("g", 0, 2);
    second.join("g", 1, 2);
  }
  World world;
  TestClient first{world, 1};
  TestClient second{world, 2};
};

}  // namespace musterd::testing
