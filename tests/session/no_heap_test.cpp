// The heap ends at some allocation and doesn't grow again until the scenario is over. The node lives on, every call has
// a typed outcome, and nothing stays charged. It is an executable of its own, whose operator new can be told to fail.
#include <catch2/catch.hpp>

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <set>

#include <muster/ipc/ring.hpp>
#include <muster/ipc/socket.hpp>

#include "failing_new.hpp"
#include "base/heap_reserve.hpp"
#include "client.hpp"
#include "memory/late_backing.hpp"
#include "walk/audit.hpp"

namespace {

constexpr std::size_t reserve_bytes = 1 << 20;
constexpr std::size_t large_bytes = 16 << 10;

/// What the heap may hold, and when it stops growing. It counts and fails only while the node works.
struct Heap {
  bool armed = false;
  std::size_t live = 0;
  std::size_t most = 0;  ///< most blocks that were live at once
  std::size_t allocations = 0;
  std::size_t ends_after = SIZE_MAX;
  std::size_t large_allocations = 0;
  std::size_t large_to_fail = SIZE_MAX;  ///< this large allocation fails, as if it were more than the reserve has
  std::size_t capacity = SIZE_MAX;
  std::size_t first_to_fail = SIZE_MAX;  ///< from this allocation on some fail, as if the reserve were empty
  std::size_t how_many_fail = 1;

  [[nodiscard]] bool has(std::size_t bytes) {
    if (!armed) return true;
    if (++allocations == ends_after) capacity = live;
    if (allocations >= first_to_fail && allocations - first_to_fail < how_many_fail) throw std::bad_alloc();
    if (bytes >= large_bytes && ++large_allocations == large_to_fail) throw std::bad_alloc();
    return live + bytes <= capacity;
  }
} heap;

/// While this object exists, the node works with the heap that the test has set up.
class Armed {
 public:
  explicit Armed(bool armed = true) : before_(std::exchange(heap.armed, armed)) {}
  Armed(const Armed&) = delete;
  Armed& operator=(const Armed&) = delete;
  ~Armed() { heap.armed = before_; }

 private:
  bool before_;
};

}  // namespace

void* musterd::testing::allocate(std::size_t bytes) {
  while (true) {
    if (heap.has(bytes))
      if (void* memory = std::malloc(bytes)) {
        heap.live += malloc_usable_size(memory);
        heap.most = std::max(heap.most, heap.live);
        return memory;
      }
    const auto handler = std::get_new_handler();
    if (!handler) throw std::bad_alloc();
    handler();
  }
}

void musterd::testing::given_back(void* memory) noexcept { heap.live -= malloc_usable_size(memory); }

using namespace musterd;
using namespace musterd::testing;
using ipc::Kind;
using muster::Code;

namespace {

/// The lane's own memory does not count as the node's.
class OwnHeapLane final : public TestLane {
 public:
  void start(Job job, TimePoint deadline) override {
    const Armed disarmed(false);
    TestLane::start(std::move(job), deadline);
  }
};

/// Keeps what the node sends in memory that does not count as the node's.
class Kept final : public Outside {
 public:
  void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) override {
    const Armed disarmed(false);
    recorder.send(client, frame, fds);
  }
  muster::Result<void> welcome(ClientId client, std::span<const std::byte> frame) override {
    send(client, frame, {});
    return {};
  }
  void show_memory_wanted(bool) override {}
  SegmentTable::Sealing seal_rings(ClientId client) override { return recorder.seal_rings(client); }
  void greeted(ClientId) override {}
  void complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) override {
    const Armed disarmed(false);
    recorder.complete(client, type, body);
  }
  void close(ClientId client, const std::string& why, ConnectionCharges charges) override {
    const Armed disarmed(false);
    recorder.close(client, why, std::move(charges));
  }
  bool after_ring(ClientId, ClientId, std::function<void()>) override { return true; }
  muster::Result<muster::ipc::Fd> watch_lifeline(ClientId client, ClientId heir) override {
    const Armed disarmed(false);
    return recorder.watch_lifeline(client, heir);
  }
  Decider& decider() override { return recorder.decider(); }
  Lane* lane(std::span<const muster::Device> devices) override { return recorder.lane(devices); }
  void run_blocking(ClientId, std::function<void()> work, std::function<void()> then) override {
    work();
    then();
  }
  void dispose(UserId, Remains, std::function<void()> then) override { then(); }
  void populate(const SegmentMemoryPtr&) override {}
  bool is_stopped(std::int32_t) override { return false; }
  ipc::Capability random_capability() override { return recorder.random_capability(); }
  void stop(std::string) override {}

  Recorder recorder{std::make_unique<OwnHeapLane>()};
};

/// Clients of one node, which only works while the heap is armed.
class Scenario {
 public:
  Scenario() : node_(small_settings(), outside_, backing()) {}

  void run() {
    for (const ClientId client : clients) connect(client);
    for (const ClientId client : clients) prepare(client);
    join_all("g");
    for (const Kind kind : {Kind::allreduce, Kind::allgather, Kind::scan, Kind::barrier}) contribute(kind);
    for (const ClientId client : clients) combine(client);
    list(clients[0]);
    contribute(Kind::split);
    release(clients[1]);
    contribute(Kind::allreduce);
  }

  /// The heap may grow again.
  void end() {
    for (const ClientId client : clients) static_cast<void>(node_.disconnected(client, "died", now_));
    connect(observer);
    ask(observer,
        [](FrameBuilder& out) { return std::pair(wire::Body_StatusQuery, wire::CreateStatusQuery(out.fbb).Union()); });
    const auto& status = *reply(observer).body_as_StatusReply();
    CHECK(status.memory_used_bytes() == ipc::channel_bytes);
    CHECK(status.objects() == 0);
    CHECK(status.groups() == 0);
    CHECK(status.clients() == 1);
    CHECK(status.ops_in_flight() == 0);
  }

  /// Each call has one outcome, unless its client was told why it was cut off.
  void check_outcomes() {
    for (const auto& [client, works] : works_) {
      std::map<std::uint64_t, int> outcomes;
      for (const auto& completion : outside_.recorder.completions[client]) {
        if (completion.type == ipc::CompletionType::done)
          ++outcomes[ipc::read_done(completion.body).value().work.value];
        if (completion.type != ipc::CompletionType::failed) continue;
        ++outcomes[ipc::read_failed(completion.body).value().work.value];
      }
      if (outside_.recorder.closed.contains(client)) {
        CHECK(reply(client).body_type() == wire::Body_Goodbye);
        continue;
      }
      for (const std::uint64_t work : works) CHECK(outcomes[work] == 1);
    }
  }

  void expire() {
    now_ += std::chrono::hours(1);
    node_.tick(now_);
  }

 private:
  static constexpr std::array<ClientId, 2> clients{ClientId{1}, ClientId{2}};
  static constexpr ClientId observer{3};

  [[nodiscard]] const wire::Frame& reply(ClientId client) {
    return *wire::GetFrame(outside_.recorder.frames[client].back().data());
  }
  /// Whether the client's latest request was granted.
  [[nodiscard]] bool granted(ClientId client) {
    return !outside_.recorder.frames[client].empty() && reply(client).body_type() != wire::Body_Failure &&
           reply(client).body_type() != wire::Body_Goodbye;
  }

  [[nodiscard]] bool is_cut_off(ClientId client) const { return outside_.recorder.closed.contains(client); }

  template <class Make>
  void ask(ClientId client, Make make) {
    if (is_cut_off(client)) return;
    FrameBuilder out(++request_);
    const auto [type, body] = make(out);
    const auto bytes = out.finish(type, body);
    const Armed armed;
    node_.frame(client, bytes, now_);
    outside_.recorder.settle();
  }
  template <class Record>
  void record(ClientId client, ipc::SubmissionType type, const Record& value) {
    if (is_cut_off(client)) return;
    std::vector<std::byte> body;
    ipc::write(value, body);
    const Armed armed;
    node_.record(client, type, body, now_);
    outside_.recorder.settle();
  }

  void connect(ClientId client) {
    REQUIRE(node_.connected(client, {0, static_cast<std::int32_t>(1000 + client.value)}, now_));
    ask(client, [](FrameBuilder& out) {
      return std::pair(
          wire::Body_Hello,
          wire::CreateHello(out.fbb, ipc::protocol_version, out.fbb.CreateString("test"), 1000, true).Union());
    });
  }

  void prepare(ClientId client) {
    ask(client, [](FrameBuilder& out) {
      return std::pair(wire::Body_Lease, wire::CreateLease(out.fbb, 1 << 20, 1000, false).Union());
    });
    const auto* segment = reply(client).body_as_Segment();
    if (!segment) return;
    const auto id = segment->segment();
    ask(client,
        [id](FrameBuilder& out) { return std::pair(wire::Body_Mapped, wire::CreateMapped(out.fbb, id).Union()); });
    for (const std::size_t leaves : {1U, 128U}) {
      ipc::Seal seal;
      seal.object = ipc::make_object_id(client, static_cast<std::uint32_t>(leaves));
      for (std::size_t leaf = 0; leaf < leaves; ++leaf)
        seal.manifest.add({id}, 0, muster::DType::float32, std::vector<std::int64_t>{16}).value();
      record(client, ipc::SubmissionType::seal, seal);
    }
  }

  void join_all(const std::string& group) {
    for (const ClientId client : clients) {
      ask(client, [&](FrameBuilder& out) {
        const auto name = out.fbb.CreateString(group);
        return std::pair(
            wire::Body_Join,
            wire::CreateJoin(out.fbb, name, static_cast<int>(client.value) - 1, 2, 30'000, 0, false).Union());
      });
      if (const auto* joined = granted(client) ? reply(client).body_as_Joined() : nullptr)
        seats_[client] = {joined->seat()};
    }
  }

  void contribute(Kind kind) {
    for (const ClientId client : clients) {
      if (!seats_.contains(client)) continue;
      ipc::Contribute contribute;
      contribute.work = {++last_work_};
      contribute.seat = seats_.at(client);
      contribute.epoch = 1;
      contribute.kind = kind;
      contribute.timeout_ns = Duration(std::chrono::seconds(30)).count();
      if (kind != Kind::barrier && kind != Kind::split) contribute.objects = {ipc::make_object_id(client, 1)};
      works_[client].push_back(last_work_);
      record(client, ipc::SubmissionType::contribute, contribute);
    }
  }

  /// Calls an op whose plan is larger than the reserve.
  void combine(ClientId client) {
    ipc::Combine combine;
    combine.work = {++last_work_};
    combine.ranks = 1024;
    combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
    combine.objects.resize(combine.ranks, ipc::make_object_id(client, 128));
    works_[client].push_back(last_work_);
    record(client, ipc::SubmissionType::combine, combine);
  }

  void list(ClientId client) {
    ask(client, [](FrameBuilder& out) {
      return std::pair(wire::Body_ObjectsQuery, wire::CreateObjectsQuery(out.fbb, 100).Union());
    });
  }

  void release(ClientId client) {
    record(client, ipc::SubmissionType::release, ipc::Release{{ipc::make_object_id(client, 128)}});
  }

  Kept outside_;
  Node node_;
  TimePoint now_{std::chrono::hours(1)};
  std::map<ClientId, ipc::SeatId> seats_;
  std::map<ClientId, std::vector<std::uint64_t>> works_;
  std::uint64_t last_work_ = 0;
  std::uint64_t request_ = 0;
};

struct Counts {
  std::size_t allocations = 0;
  std::size_t large_allocations = 0;
};

/// Runs the scenario on a heap that ends at an allocation, or fails a large one. Returns how many allocations there
/// were.
Counts run_until(std::size_t end, std::size_t large_to_fail) {
  INFO("the heap ends at allocation " << end << ", large allocation " << large_to_fail << " fails");
  Scenario scenario;
  heap.allocations = heap.large_allocations = 0;
  heap.ends_after = end;
  heap.large_to_fail = large_to_fail;
  scenario.run();
  scenario.expire();
  const Counts made{heap.allocations, heap.large_allocations};
  heap.ends_after = heap.large_to_fail = heap.capacity = SIZE_MAX;
  scenario.check_outcomes();
  scenario.end();
  CHECK_FALSE(heap_is_short());
  return made;
}

}  // namespace

TEST_CASE("wherever the heap ends, the node lives on and nothing is lost") {
  keep_heap_reserve(reserve_bytes);
  const std::size_t all = run_until(SIZE_MAX, SIZE_MAX).allocations;
  REQUIRE(all > 100);
  for (std::size_t end = 1; end <= all; ++end) run_until(end, SIZE_MAX);
}

TEST_CASE("an allocation that is too large for the reserve fails its own request, and nothing else") {
  keep_heap_reserve(reserve_bytes);
  const std::size_t all = run_until(SIZE_MAX, SIZE_MAX).large_allocations;
  REQUIRE(all >= 4);
  for (std::size_t large = 1; large <= all; ++large) run_until(SIZE_MAX, large);
}

namespace {

/// Counts the allocations of one more memory charge in a ledger that `clients` clients have filled.
std::size_t allocations_of_refusal(std::uint32_t clients) {
  constexpr std::uint64_t all = 1 << 20;
  constexpr std::uint64_t plenty = 1 << 20;
  const Amounts amounts{all, plenty, plenty, plenty, plenty, plenty, plenty};
  Ledger ledger({.total = amounts, .per_user = amounts, .per_client = amounts});
  std::vector<Charge> charges;
  for (std::uint32_t id = 1; id <= clients; ++id)
    charges.push_back(ledger.charge({id, {id}}, Resource::memory, all / clients).value());
  heap.allocations = 0;
  const Armed armed;
  CHECK_FALSE(ledger.charge({1, {1}}, Resource::memory, 1));
  return heap.allocations;
}

/// A Recorder whose own memory does not count as the node's. It keeps everything back until it is told to answer.
class Patient final : public Recorder {
 public:
  Patient() : Recorder(std::make_unique<OwnHeapLane>()) { jobs.hold = works_on_gpus = true; }
  void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) override {
    const Armed disarmed(false);
    Recorder::send(client, frame, fds);
  }
  void complete(ClientId client, ipc::CompletionType type, std::span<const std::byte> body) override {
    const Armed disarmed(false);
    Recorder::complete(client, type, body);
  }
  void close(ClientId client, const std::string& why, ConnectionCharges charges) override {
    const Armed disarmed(false);
    Recorder::close(client, why, std::move(charges));
  }
  muster::Result<ipc::Fd> watch_lifeline(ClientId client, ClientId heir) override {
    const Armed disarmed(false);
    return Recorder::watch_lifeline(client, heir);
  }
  void run_blocking(ClientId client, std::function<void()> work, std::function<void()> then) override {
    const Armed disarmed(false);
    hold_blocking = !client;
    Recorder::run_blocking(client, std::move(work), std::move(then));
  }
  void dispose(UserId, Remains remains, std::function<void()> then) override {
    const Armed disarmed(false);
    remains = {};
    if (!over) disposals.push_back(std::move(then));
  }

  std::vector<std::function<void()>> disposals;
  bool over = false;
};

constexpr std::uint64_t mebibyte = 1 << 20;

/// Clients in the middle of everything that an event may end or cause.
class Stage {
 public:
  Stage() : Stage(std::make_unique<Patient>()) {}
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  ~Stage() {
    outside_.over = true;
    outside_.jobs.jobs.clear();
    outside_.blocked.clear();
    outside_.disposals.clear();
  }

  // ---- events ----
  void first_dies() { disconnect(first_); }
  /// The first client and its child go.
  void first_goes() {
    first_dies();
    life_line_closes();
    finish();
  }
  void first_breaks_the_protocol() {
    is_cut_off_ = true;
    world_.node.violated(first_.id(), muster::Error(Code::invalid, "nonsense"), world_.now);
  }
  void life_line_closes() {
    for (const auto heir : std::exchange(outside_.lifelines, {})) world_.node.lifeline_closed(heir, world_.now);
  }
  void memory_comes_back() {
    for (auto& then : std::exchange(outside_.disposals, {})) then();
    world_.node.disposed(world_.now);
  }
  /// The first client calls the op in which others wait.
  void op_begins() {
    call([&] { contribute(first_, "shrink", Kind::barrier); });
  }
  void op_fails() {
    call([&] { contribute(first_, "shrink", Kind::broadcast); });
  }
  void epoch_begins() {
    for (int i = 0; i < 45; ++i) call([&] { contribute(first_, "wait", Kind::barrier); });
    call([&] { contribute(first_, "wait", Kind::reform); });
  }
  void group_is_split() {
    call([&] { contribute(first_, "split", Kind::split); });
  }
  void seat_is_taken() {
    call([&] { first_.join("another", 0, 3); });
  }
  void tokens_are_used() {
    call([&] { first_.open_token("of first"); });
    call([&] { first_.keep_for("of first", of_first_); });
    call([&] { first_.end_token("of first"); });
    call([&] { first_.open_token("stays"); });
    call([&] { first_.keep_for("stays", of_first_); });
  }
  void seat_is_left() {
    call([&] {
      first_.seat = seats_.at({&first_, "fail"}).first;
      first_.leave();
    });
  }
  void lanes_finish() { outside_.jobs.end_all(); }
  void gpu_is_leased() {
    call([&] { ask_gpu_lease(); }, on_gpu_);
  }
  void two_wait_for_a_gpu() {
    replies_before_ = on_gpu_.replies();
    for (int i = 0; i < 2; ++i) ask_gpu_lease();
  }
  void who_waits_for_a_gpu_dies() { disconnect(on_gpu_); }
  void gpu_makes_memory() { static_cast<void>(gpu_memory_.finish_one({})); }
  void gpu_is_full() {
    static_cast<void>(gpu_memory_.finish_one(muster::Error(Code::out_of_memory, "the GPU is full", "wait")));
  }
  void gpu_is_too_slow() { pass(std::chrono::seconds(6)); }
  void op_on_a_gpu_begins() {
    call([&] { combine(on_gpu_, of_gpu_); }, on_gpu_);
  }
  void memory_is_left_in_place() {
    is_gpu_late_ = false;
    call([&] { leave_in_place(); });
    is_gpu_late_ = true;
  }
  /// The owner seals an object in it, which another client holds and maps.
  void an_object_lies_in_place() {
    memory_is_left_in_place();
    const auto* segment = first_.reply().body_as_Segment();
    REQUIRE(segment);
    in_place_ = {segment->segment()};
    ipc::Manifest manifest;
    const std::int64_t shape[]{100};
    manifest.add(in_place_, 0, muster::DType::float32, shape, gpu_).value();
    of_in_place_ = first_.seal(std::move(manifest), {});
    first_.record(ipc::SubmissionType::hand_over, ipc::HandOver{in_place_});
    second_.map(in_place_);
  }
  void what_was_left_in_place_ends() {
    call([&] { first_.record(ipc::SubmissionType::release, ipc::Release{{of_in_place_}}); });
    call([&] { second_.record(ipc::SubmissionType::unmapped, ipc::Unmapped{in_place_}); });
    while (gpu_memory_.close_one()) {
    }
  }
  /// Its owner was told that it is over, or why it was cut off.
  void check_that_it_is_over() {
    if (!in_place_ || outside_.closed.contains(first_.id()) || !NodeAudit(world_.node).is_connected(first_.id()))
      return;
    if (NodeAudit(world_.node).segment(in_place_)) return;
    CHECK(first_.count(ipc::CompletionType::in_place_over) == 1);
  }
  void lane_fails() {
    while (!outside_.jobs.jobs.empty())
      outside_.jobs.fail(outside_.jobs.jobs.begin()->first, muster::Error(Code::failed, "out of luck"));
  }
  void check_moving() { REQUIRE(outside_.blocked.size() == 1); }
  void copies_finish() { outside_.run_blocked(); }
  void go_on() { world_.go_on(); }
  void pass(Duration time) { world_.advance(time); }
  void objects_move() { pass(std::chrono::milliseconds(200)); }
  void end() { world_.node.shut_down("test", world_.now); }
  [[nodiscard]] bool goes_on() const { return world_.node.goes_on(); }

  /// Brings everything that was begun to its end.
  void finish() {
    int turns = 0;
    for (; goes_on() && turns < 1000; ++turns) go_on();
    REQUIRE(turns < 1000);
    lanes_finish();
    copies_finish();
    memory_comes_back();
    while (gpu_memory_.close_one()) {
    }
  }
  void check() {
    for (int i = 0; i < 3; ++i) finish();
    CHECK(NodeAudit(world_.node).contradictions() == std::vector<std::string>());
    // All deadlines pass, some at a time.
    pass(std::chrono::hours(1));
    for (int i = 0; i < 100; ++i) world_.node.tick(world_.now), finish();
    for (const auto& [client, work] : works_) check_outcome(*client, work);
    check_leases();
    check_that_it_is_over();
    if (is_cut_off_) CHECK(outside_.closed.contains(first_.id()));
    for (auto* client : {&first_, &second_, &third_, &on_gpu_}) client->die();
    finish();
    life_line_closes();
    pass(std::chrono::hours(1));
    finish();
    CHECK(NodeAudit(world_.node).left_over() == std::vector<std::string>());
  }

 private:
  explicit Stage(std::unique_ptr<Patient> outside)
      : outside_(*outside), world_(settings(), std::move(outside), backings()) {
    of_first_ = first_.seal(segment_ = first_.lease(2 * mebibyte), 0, std::vector<float>(200'000, 1.0F));
    first_.lease(3 * mebibyte);  // it comes back when the client goes
    of_second_ = second_.seal(second_.lease(mebibyte), 0, std::vector<float>(200'000, 2.0F));
    lend();
    for (const auto on_loss : {muster::OnLoss::fail, muster::OnLoss::shrink, muster::OnLoss::wait}) {
      const std::string name(muster::name(on_loss));
      join(first_, name, 0, on_loss);
      join(second_, name, 1, on_loss);
      join(third_, name, 2, on_loss);
      for (int i = 0; i < 45; ++i)
        for (auto* client : {&second_, &third_}) contribute(*client, name, Kind::barrier);
      contribute(second_, name, Kind::reform);
      contribute(third_, name, Kind::reform);
    }
    join(first_, "next", 0);
    join(third_, "next", 1);
    third_.leave();
    join(third_, "next", 1);  // for the next epoch
    join(second_, "next", 2);
    second_.leave();
    join(second_, "next", 2);
    contribute(third_, "next", Kind::barrier);
    contribute(second_, "next", Kind::barrier);
    for (auto* client : {&first_, &second_, &third_}) join(*client, "split", static_cast<int>(client->id().value) - 1);
    for (auto* client : {&second_, &third_}) contribute(*client, "split", Kind::split);
    join(first_, "alone", 0);
    contribute(first_, "alone", Kind::barrier);
    first_.fork();
    on_lanes();
    use_gpu();
    wait_for_memory();
  }

  static constexpr std::uint64_t memory_ = 4 * ipc::channel_bytes + 8 * mebibyte;
  static NodeSettings settings() {
    auto settings = small_settings();
    const auto memory = static_cast<std::size_t>(Resource::memory);
    settings.quota.total[memory] = settings.quota.per_user[memory] = settings.quota.per_client[memory] = memory_;
    for (auto* amounts : {&settings.quota.total, &settings.quota.per_user, &settings.quota.per_client})
      (*amounts)[memory_of(gpu_)] = 16 * mebibyte, (*amounts)[Resource::in_place] = 4;
    return settings;
  }
  Backings backings() {
    Backings backings(backing());
    backings.add(gpu_, gpu_memory_);
    return backings;
  }

  /// Makes calls of the first client, unless it has been cut off. Only the node's work in them is armed.
  template <class Calls>
  void call(Calls calls) {
    call(std::move(calls), first_);
  }
  template <class Calls>
  void call(Calls calls, const TestClient& client) {
    const Armed disarmed(false);
    if (outside_.closed.contains(client.id())) return;
    world_.on_call = [](bool begins) { heap.armed = begins; };
    calls();
    world_.on_call = [](bool) {};
  }
  static void disconnect(TestClient& client) { client.die(); }

  void join(TestClient& client, const std::string& group, int rank, muster::OnLoss on_loss = muster::OnLoss::fail) {
    REQUIRE(client.join(group, rank, 3, on_loss));
    seats_[{&client, group}] = {client.seat, client.epoch};
  }
  void contribute(TestClient& client, const std::string& group, Kind kind, ipc::ObjectIds objects = {}) {
    std::tie(client.seat, client.epoch) = seats_.at({&client, group});
    works_.emplace_back(&client, client.contribute(kind, std::move(objects)));
  }
  void combine(TestClient& client, ipc::ObjectId input) {
    ipc::Combine combine;
    combine.work = {++combines_};
    combine.ranks = 2;
    combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
    combine.objects.resize(combine.ranks, input);
    client.record(ipc::SubmissionType::combine, combine);
    works_.emplace_back(&client, combine.work);
  }

  /// Little is left of the first client's segment when it goes; others read and hold that.
  void lend() {
    const auto small = first_.seal(segment_, mebibyte, {1, 2, 3});
    second_.map(segment_);
    second_.look_up(small, {{42, 2}});
    first_.record(ipc::SubmissionType::pin, ipc::Pin{of_first_});
  }
  void on_lanes() {
    combine(second_, of_second_);
    REQUIRE(outside_.jobs.jobs.size() == 1);
  }
  /// Waits for the first client's memory. Some of the ops are for the lanes, others are small.
  void wait_for_memory() {
    const auto used = third_.status().memory_used_bytes();
    const auto small = third_.seal(third_.lease(memory_ - used), 0, {1, 2, 3});
    combine(second_, of_second_);
    third_.ask_lease(mebibyte, 30'000);
    for (int i = 0; i < 30; ++i) combine(third_, small);
    REQUIRE(third_.status().waiting_for_memory() == 32);
  }

  void ask_gpu_lease() {
    on_gpu_.ask_lease(mebibyte, 100, false, wire::Device(static_cast<std::uint8_t>(gpu_.kind), gpu_.index));
  }
  void leave_in_place() {
    first_.ask_leave_in_place(1000, wire::Device(static_cast<std::uint8_t>(gpu_.kind), gpu_.index));
  }
  /// One client has an array there. What is leased from now on is made later.
  void use_gpu() {
    ask_gpu_lease();
    const ipc::SegmentId segment{on_gpu_.reply().body_as_Segment()->segment()};
    on_gpu_.mapped(segment);
    ipc::Manifest manifest;
    const std::int64_t shape[]{200'000};
    manifest.add(segment, 0, muster::DType::float32, shape, gpu_).value();
    of_gpu_ = on_gpu_.seal(std::move(manifest), {});
    is_gpu_late_ = true;
  }
  /// Each lease that somebody has waited for was granted or refused once, unless the client was told why it was cut
  /// off.
  void check_leases() {
    if (!replies_before_ || outside_.closed.contains(on_gpu_.id())) return;
    if (!NodeAudit(world_.node).is_connected(on_gpu_.id())) return;
    CHECK(on_gpu_.replies() == *replies_before_ + 2);
  }

  std::ptrdiff_t outcomes(TestClient& client, ipc::WorkId work) {
    return std::ranges::count_if(outside_.completions[client.id()], [&](const Recorder::Completion& completion) {
      if (completion.type == ipc::CompletionType::done) return ipc::read_done(completion.body).value().work == work;
      return completion.type == ipc::CompletionType::failed && ipc::read_failed(completion.body).value().work == work;
    });
  }

  /// Each work has one outcome, unless the client is gone or was told why it was cut off.
  void check_outcome(TestClient& client, ipc::WorkId work) {
    INFO("client " << client.id().value << ", work " << work.value);
    if (outside_.closed.contains(client.id())) {
      CHECK(client.reply().body_type() == wire::Body_Goodbye);
      return;
    }
    if (!NodeAudit(world_.node).is_connected(client.id())) return;
    CHECK(outcomes(client, work) == 1);
  }

  static constexpr muster::Device gpu_ = muster::Device::cuda(0);
  bool is_gpu_late_ = false;
  LateBacking gpu_memory_{[this] { return is_gpu_late_; }};
  Patient& outside_;
  World world_;
  TestClient first_{world_, 1};
  TestClient second_{world_, 2};
  TestClient third_{world_, 3};
  TestClient on_gpu_{world_, 4, 7};  ///< another user's
  ipc::SegmentId segment_;
  ipc::ObjectId of_first_;
  ipc::ObjectId of_second_;
  ipc::ObjectId of_gpu_;
  ipc::SegmentId in_place_;  ///< of the first client, once an object lies there
  ipc::ObjectId of_in_place_;
  std::optional<std::size_t> replies_before_;  ///< of the client that waits for memory of the GPU
  std::map<std::pair<TestClient*, std::string>, std::pair<ipc::SeatId, std::uint32_t>> seats_;
  std::vector<std::pair<TestClient*, ipc::WorkId>> works_;
  std::uint64_t combines_ = 1000;
  bool is_cut_off_ = false;
};

/// An event on a stage, and what has to happen before it.
struct Event {
  const char* name;
  std::function<void(Stage&)> before;
  std::function<void(Stage&)> act;
};

void nothing(Stage& /*stage*/) {}

const std::vector<Event> events{
    {"a client dies", nothing, &Stage::first_dies},
    {"a client is cut off", nothing, &Stage::first_breaks_the_protocol},
    {"what a death began goes on", &Stage::first_dies,
     [](Stage& stage) {
       for (int i = 0; i < 20 && stage.goes_on(); ++i) stage.go_on();
     }},
    {"a life line closes", &Stage::first_dies, &Stage::life_line_closes},
    {"memory comes back", [](Stage& stage) { stage.first_dies(), stage.life_line_closes(); },
     &Stage::memory_comes_back},
    {"an op begins", nothing, &Stage::op_begins},
    {"an op fails", nothing, &Stage::op_fails},
    {"an epoch begins", nothing, &Stage::epoch_begins},
    {"a group is split", nothing, &Stage::group_is_split},
    {"a seat is taken", nothing, &Stage::seat_is_taken},
    {"a seat is left", nothing, &Stage::seat_is_left},
    {"tokens are used", nothing, &Stage::tokens_are_used},
    {"a lane finishes", nothing, &Stage::lanes_finish},
    {"a GPU is leased", nothing, &Stage::gpu_is_leased},
    {"a GPU makes memory", &Stage::two_wait_for_a_gpu, &Stage::gpu_makes_memory},
    {"a GPU is full", &Stage::two_wait_for_a_gpu, &Stage::gpu_is_full},
    {"a GPU is too slow", &Stage::two_wait_for_a_gpu, &Stage::gpu_is_too_slow},
    {"who waits for a GPU dies", &Stage::two_wait_for_a_gpu, &Stage::who_waits_for_a_gpu_dies},
    {"an op on a GPU begins", nothing, &Stage::op_on_a_gpu_begins},
    {"an op on a GPU is done", &Stage::op_on_a_gpu_begins, &Stage::lanes_finish},
    {"an op on a GPU fails", &Stage::op_on_a_gpu_begins, &Stage::lane_fails},
    {"memory is left in place", nothing, &Stage::memory_is_left_in_place},
    {"what was left in place ends", &Stage::an_object_lies_in_place, &Stage::what_was_left_in_place_ends},
    {"the owner of what was left in place dies", &Stage::an_object_lies_in_place, &Stage::first_dies},
    {"deadlines pass", nothing, [](Stage& stage) { stage.pass(std::chrono::seconds(31)); }},
    {"leases of pickles end", [](Stage& stage) { stage.pass(std::chrono::seconds(31)); },
     [](Stage& stage) { stage.pass(std::chrono::minutes(20)); }},
    {"objects begin to move", [](Stage& stage) { stage.first_goes(); }, &Stage::objects_move},
    {"objects have moved", [](Stage& stage) { stage.first_goes(), stage.objects_move(), stage.check_moving(); },
     &Stage::copies_finish},
    {"the daemon ends", nothing, &Stage::end},
};

/// Returns how many allocations there were.
std::size_t run(const Event& event, std::size_t first_to_fail, std::size_t how_many) {
  INFO(event.name << ": " << how_many << " allocations fail from number " << first_to_fail << " on");
  Stage stage;
  event.before(stage);
  heap.allocations = 0;
  heap.first_to_fail = first_to_fail;
  heap.how_many_fail = how_many;
  {
    const Armed armed;
    event.act(stage);
  }
  const std::size_t made = heap.allocations;
  heap.first_to_fail = SIZE_MAX;
  stage.check();
  return made;
}

}  // namespace

TEST_CASE("a charge is refused with as little as ever, however many clients hold memory") {
  CHECK(allocations_of_refusal(1024) == allocations_of_refusal(2));
}

TEST_CASE("whatever allocation fails in whatever event, the node lives on and everybody has an outcome") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr std::size_t places_max = 30;  // for each event: under a sanitizer each run takes ten times as long
#else
  // Where the suite runs once more with another backing, lane or decider, fewer places will do.
  const auto is_set = [](const char* variable) { return std::getenv(variable) != nullptr; };
  const bool again = is_set("MUSTER_TEST_BACKING") || is_set("MUSTER_TEST_LANE") || is_set("MUSTER_TEST_DECIDER");
  const std::size_t places_max = again ? 60 : 300;
#endif
  for (const auto& event : events) {
    const std::size_t all = run(event, SIZE_MAX, 1);
    for (const std::size_t how_many : {std::size_t{1}, SIZE_MAX})
      for (std::size_t first = 1; first <= all; first += 1 + all / places_max) run(event, first, how_many);
  }
}

TEST_CASE("a large plan is made when there is room for it, and not before") {
  constexpr std::uint64_t mebibyte = 1 << 20;
  constexpr auto memory = static_cast<std::size_t>(Resource::memory);
  auto settings = small_settings();
  settings.quota.total[memory] = settings.quota.per_user[memory] = settings.quota.per_client[memory] =
      4 * mebibyte + mebibyte / 4 + 2 * ipc::channel_bytes;
  World world(settings);
  TestClient client(world, 1);
  TestClient holder(world, 2);
  const auto segment = client.lease(mebibyte);
  holder.lease(3 * mebibyte);
  ipc::Manifest manifest;
  constexpr std::size_t leaves = 1000;
  for (std::size_t leaf = 0; leaf < leaves; ++leaf)
    manifest.add(segment, 0, muster::DType::float32, std::vector<std::int64_t>{1}).value();
  const auto bundle = client.seal(manifest, {});
  ipc::Combine combine;
  combine.work = {100};
  combine.ranks = 64;
  combine.timeout_ns = Duration(std::chrono::seconds(30)).count();
  combine.objects.resize(combine.ranks, bundle);
  heap.most = heap.live;
  const auto before = heap.live;
  client.record(ipc::SubmissionType::combine, combine);
  CHECK_FALSE(client.failed(combine.work));
  CHECK(heap.most - before < combine.ranks * leaves * sizeof(void*) / 2);
  holder.die();
  CHECK(client.done(combine.work));
  CHECK(heap.most - before > combine.ranks * leaves * sizeof(void*));
}
