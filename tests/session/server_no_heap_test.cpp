// Some allocation of the control thread fails, whatever the server does just then. The server lives on and serves
// others, an affected client goes on or is ended, and nothing is left of clients that have gone. Runs over a real
// socket. It is an executable of its own, whose operator new can be told to fail.
#include <catch2/catch.hpp>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <thread>

#include <muster/ipc/records.hpp>
#include <muster/ipc/ring.hpp>
#include <muster/ipc/socket.hpp>

#include "failing_new.hpp"
#include "base/blocking_pool.hpp"
#include "collective/turns.hpp"
#include "session/frame_builder.hpp"
#include "session/server.hpp"

namespace {

/// Which allocations of the control thread fail.
struct Heap {
  std::atomic<std::size_t> made{0};
  std::atomic<std::size_t> failed{0};
  std::atomic<std::size_t> first_to_fail{SIZE_MAX};
  std::atomic<std::size_t> how_many_fail{0};

  void fail(std::size_t first, std::size_t how_many) {
    first_to_fail = SIZE_MAX;
    made = failed = 0;
    how_many_fail = how_many;
    first_to_fail = first;
  }
  [[nodiscard]] bool has_memory() {
    const std::size_t number = ++made;
    if (number < first_to_fail || number - first_to_fail >= how_many_fail) return true;
    ++failed;
    return false;
  }
} heap;

thread_local bool is_control_thread = false;

}  // namespace

void* musterd::testing::allocate(std::size_t bytes) {
  void* const memory = is_control_thread && !heap.has_memory() ? nullptr : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void musterd::testing::given_back(void* /*memory*/) noexcept {}

using namespace musterd;
namespace ipc = muster::ipc;

namespace {

constexpr int patience_ms = 60'000;  // bounds how long something may take; no test waits this long when all is well

/// Looks again and again until `look` returns true.
template <class Look>
void eventually(Look look) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(patience_ms);
  bool is_so = look();
  for (; !is_so && Clock::now() < deadline; is_so = look()) std::this_thread::sleep_for(std::chrono::microseconds(200));
  CHECK(is_so);
}

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// A server that runs in a thread, on a socket of its own.
class Running {
 public:
  explicit Running(Duration hello_timeout = std::chrono::minutes(1), double idle_exit_s = 0) {
    ServerSettings settings;
    settings.socket = socket();
    settings.hello_timeout = hello_timeout;
    settings.node.idle_exit_s = idle_exit_s;
    settings.node.version = "test";
    settings.node.incarnation = 7;
    settings.node.user = ::geteuid();
    constexpr std::uint64_t budget = 64 << 20;
    settings.node.quota.total = settings.node.quota.per_user =
        settings.node.quota.per_client = {budget, 4096, 256, 4096, 64, budget, 4096};
    std::promise<void> ready;
    settings.ready = [&ready] { ready.set_value(); };
    // The memory of the server belongs to the thread that makes it.
    thread_ = std::thread([this, settings = std::move(settings)]() mutable {
      const auto server = Server::create(std::move(settings));
      is_control_thread = true;
      reason_ = (*server)->run();
      is_control_thread = false;
    });
    ready.get_future().wait();
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() {
    heap.fail(SIZE_MAX, 0);
    if (thread_.joinable()) ::raise(SIGTERM), thread_.join();
    std::filesystem::remove_all(folder_);
  }

  [[nodiscard]] std::string socket() const { return folder_ + "/musterd.sock"; }
  /// Returns why it ended, once it has.
  [[nodiscard]] const std::string& reason() {
    thread_.join();
    return reason_;
  }

 private:
  static std::string make_folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "muster-server-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    return pattern;
  }
  std::string folder_ = make_folder();
  std::string reason_;
  std::thread thread_;
};

/// A client that sees every frame in the order in which it comes.
class Peer {
 public:
  explicit Peer(const Running& server) : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    server.socket().copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
    REQUIRE(::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }

  // ---- what it asks ----
  void say_hello(bool rings = true) {
    ask(wire::Body_Hello, [&](auto& fbb) { return wire::CreateHello(fbb, ipc::protocol_version, 0, 0, rings); });
  }
  void say_mapped(std::uint32_t segment = 0) {
    ask(wire::Body_Mapped, [&](auto& fbb) { return wire::CreateMapped(fbb, segment); });
  }
  void ask_status() {
    ask(wire::Body_StatusQuery, [](auto& fbb) { return wire::CreateStatusQuery(fbb); });
  }
  void ask_lease() {
    ask(wire::Body_Lease, [](auto& fbb) { return wire::CreateLease(fbb, 1 << 20, 0); });
  }
  void ask_fork() {
    ask(wire::Body_Fork, [](auto& fbb) { return wire::CreateFork(fbb); });
  }
  void ask_join(const std::string& group) {
    ask(wire::Body_Join, [&](auto& fbb) {
      const auto name = fbb.CreateString(group);
      return wire::CreateJoin(fbb, name, 0, 1, 60'000, static_cast<std::uint8_t>(muster::OnLoss::fail));
    });
  }
  void ask_lookup(ipc::ObjectId object) {
    ask(wire::Body_Lookup, [&](auto& fbb) {
      const wire::Capability capability(1, 2);
      return wire::CreateLookup(fbb, 7, object.value, true, &capability);
    });
  }
  void ask_to_stop() {
    ask(wire::Body_Stop, [](auto& fbb) { return wire::CreateStop(fbb); });
  }

  // ---- what comes ----
  /// Whether there is a frame to read; then receive() does not wait.
  [[nodiscard]] bool is_told(int timeout_ms = 0) const {
    pollfd polled{socket_.get(), POLLIN, 0};
    return ::poll(&polled, 1, timeout_ms) > 0;
  }
  /// Returns the next frame's type; NONE at the end of the connection.
  wire::Body receive() {
    if (ended_) return wire::Body_NONE;
    INFO("waiting for frame " << request_);
    REQUIRE(is_told(patience_ms));
    packet_ = {};
    const auto received = ipc::receive_packet(socket_, packet_);
    ended_ = !received || *received == ipc::Received::closed;
    return ended_ ? wire::Body_NONE : frame().body_type();
  }
  [[nodiscard]] const wire::Frame& frame() const { return *wire::GetFrame(packet_.bytes.data()); }
  /// Returns true if any answer came; otherwise the connection has ended.
  bool is_answered() {
    while (receive() == wire::Body_Goodbye) {
      // The end follows. A client that could not be cut off at once may be told twice.
    }
    return !ended_;
  }
  [[nodiscard]] bool has_ended() const { return ended_; }
  std::vector<ipc::Fd> take_descriptors() { return std::move(packet_.fds); }

  // ---- its rings ----
  /// Returns false if it has no rings because the connection has ended or the daemon has refused them.
  bool attach() {
    say_hello();
    if (receive() != wire::Body_Welcome) return false;
    take_rings();
    say_mapped();
    return receive() == wire::Body_Ok;
  }
  void take_rings() {
    id_ = ClientId{frame().body_as_Welcome()->client()};
    REQUIRE(packet_.fds.size() == 3);
    doorbell_ = std::move(packet_.fds[1]);
    auto mapped = ipc::Mapping::map(packet_.fds[0], ipc::channel_bytes, ipc::Access::read_write);
    memory_ = std::move(*mapped);
    auto* const rings = memory_.data() + ipc::channel_header_bytes;
    auto& header = *reinterpret_cast<ipc::ChannelHeader*>(memory_.data());
    submissions_.emplace(rings, header.submission_tail, header.submission_head);
    completions_.emplace(rings + ipc::ring_bytes, header.completion_tail, header.completion_head);
  }
  template <class Record>
  void write(ipc::SubmissionType type, const Record& value) {
    std::vector<std::byte> body;
    ipc::write(value, body);
    REQUIRE(submissions_->try_write(static_cast<std::uint16_t>(type), body).value());
    submissions_->publish();
  }
  void ring_doorbell() { ipc::signal(doorbell_); }
  [[nodiscard]] bool has_completion() const { return completions_ && !completions_->empty(); }
  ipc::CompletionType next_completion() { return static_cast<ipc::CompletionType>(completions_->next().value()->type); }
  void write_barrier(std::uint64_t work) {
    ipc::Contribute contribute;
    contribute.work = {work};
    contribute.seat = {frame().body_as_Joined()->seat()};
    contribute.epoch = frame().body_as_Joined()->epoch();
    contribute.kind = ipc::Kind::barrier;
    contribute.timeout_ns = Duration(std::chrono::minutes(1)).count();
    write(ipc::SubmissionType::contribute, contribute);
  }
  void write_seal(ipc::SegmentId segment, std::uint32_t number) {
    ipc::Seal seal;
    seal.object = object(number);
    seal.capability = {{1, 2}};
    seal.manifest.add(segment, 0, muster::DType::float32, std::vector<std::int64_t>{4}).value();
    write(ipc::SubmissionType::seal, seal);
  }
  [[nodiscard]] ipc::ObjectId object(std::uint32_t number) const { return ipc::make_object_id(id_, number); }

  void hang_up() {
    socket_.reset();
    ended_ = true;
  }

 private:
  template <class Create>
  void ask(wire::Body type, Create create) {
    if (ended_) return;
    FrameBuilder out(++request_);
    const auto body = create(out.fbb).Union();
    // A client that has been cut off notices that when it reads.
    static_cast<void>(ipc::send_packet(socket_, out.finish(type, body), {}));
  }

  ipc::Fd socket_;
  ipc::Packet packet_;
  std::uint64_t request_ = 0;
  bool ended_ = false;
  ClientId id_;
  ipc::Fd doorbell_;
  ipc::Mapping memory_;
  std::optional<ipc::RingProducer> submissions_;
  std::optional<ipc::RingConsumer> completions_;
};

/// While it exists, some allocations of the control thread fail.
class Failing {
 public:
  Failing(std::size_t first, std::size_t how_many) { heap.fail(first, how_many); }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
  ~Failing() { heap.fail(SIZE_MAX, 0); }
};

/// The clients that an event affects.
struct Stage {
  explicit Stage(Running& running) : server(running) {}
  Running& server;
  std::optional<Peer> peer;
  std::optional<Peer> other;
  std::vector<ipc::Fd> line;  ///< the child's end of a life line
  ipc::SegmentId segment;

  void comes() {
    peer.emplace(server);
    REQUIRE(peer->attach());
  }
  void leases(Peer& who) {
    who.ask_lease();
    REQUIRE(who.receive() == wire::Body_Segment);
    segment = {who.frame().body_as_Segment()->segment()};
    const auto bytes = who.frame().body_as_Segment()->bytes();
    const auto descriptors = who.take_descriptors();
    const auto mapped = ipc::Mapping::map(descriptors.at(0), bytes, ipc::Access::read_write);
    who.say_mapped(segment.value);
    REQUIRE(who.receive() == wire::Body_Ok);
  }
  void joins() {
    peer->ask_join("its own");
    REQUIRE(peer->receive() == wire::Body_Joined);
  }
  void forks() {
    peer->ask_fork();
    REQUIRE(peer->receive() == wire::Body_Ok);
    line = peer->take_descriptors();
  }
  /// Its maker has published it, but the daemon has not been woken.
  void other_publishes() {
    other.emplace(server);
    REQUIRE(other->attach());
    leases(*other);
    other->write_seal(segment, 1);
  }
};

/// What a client does, what comes before it, and when it has had its effect.
struct Event {
  const char* name;
  std::function<void(Stage&)> before;
  std::function<void(Stage&)> act;
  std::function<bool(Stage&)> is_over;  ///< whether the client could see the effect
};

bool peer_is_told(Stage& stage) { return stage.peer->is_told(); }
bool peer_has_outcome(Stage& stage) { return stage.peer->has_completion() || stage.peer->is_told(); }
/// Only others could see the effect.
bool is_unseen(Stage& /*stage*/) { return false; }
void nothing(Stage& /*stage*/) {}

const std::vector<Event> events{
    {"a client connects and says Hello", nothing,
     [](Stage& stage) {
       stage.peer.emplace(stage.server);
       stage.peer->say_hello();
     },
     peer_is_told},
    {"it connects without rings", nothing,
     [](Stage& stage) {
       stage.peer.emplace(stage.server);
       stage.peer->say_hello(false);
     },
     peer_is_told},
    {"its rings are opened",
     [](Stage& stage) {
       stage.peer.emplace(stage.server);
       stage.peer->say_hello();
       REQUIRE(stage.peer->receive() == wire::Body_Welcome);
       stage.peer->take_rings();
     },
     [](Stage& stage) { stage.peer->say_mapped(); }, peer_is_told},
    {"it asks for something", &Stage::comes, [](Stage& stage) { stage.peer->ask_status(); }, peer_is_told},
    {"it asks for a segment", &Stage::comes, [](Stage& stage) { stage.peer->ask_lease(); }, peer_is_told},
    {"it takes part in an op", [](Stage& stage) { stage.comes(), stage.joins(); },
     [](Stage& stage) {
       stage.peer->write_barrier(1);
       stage.peer->ring_doorbell();
     },
     peer_has_outcome},
    {"a frame comes after a record", [](Stage& stage) { stage.comes(), stage.joins(); },
     [](Stage& stage) {
       stage.peer->write_barrier(1);
       stage.peer->ask_status();
     },
     peer_is_told},
    {"it looks up what another one has published", [](Stage& stage) { stage.comes(), stage.other_publishes(); },
     [](Stage& stage) { stage.peer->ask_lookup(stage.other->object(1)); }, peer_is_told},
    {"who has published what it looks up goes",
     [](Stage& stage) {
       stage.comes();
       stage.other_publishes();
       for (std::uint32_t number = 2; number < 100; ++number) stage.other->write_seal(stage.segment, number);
     },
     [](Stage& stage) {
       for (std::uint32_t number = 1; number < 20; ++number) stage.peer->ask_lookup(stage.other->object(number));
       stage.other->hang_up();
     },
     peer_is_told},
    {"it forks", &Stage::comes, [](Stage& stage) { stage.peer->ask_fork(); }, peer_is_told},
    {"its child goes", [](Stage& stage) { stage.comes(), stage.forks(); }, [](Stage& stage) { stage.line.clear(); },
     is_unseen},
    {"it breaks the protocol", &Stage::comes, [](Stage& stage) { stage.peer->say_hello(); }, peer_is_told},
    {"it goes", [](Stage& stage) { stage.comes(), stage.joins(), stage.leases(*stage.peer); },
     [](Stage& stage) { stage.peer->hang_up(); }, is_unseen},
    {"it goes, and has said nothing", [](Stage& stage) { stage.peer.emplace(stage.server); },
     [](Stage& stage) { stage.peer->hang_up(); }, is_unseen},
};

/// Checks that others are served.
void serves_newcomers(const Running& server) {
  Peer fresh(server);
  REQUIRE(fresh.attach());
  fresh.ask_join("fresh");
  REQUIRE(fresh.receive() == wire::Body_Joined);
  fresh.write_barrier(1);
  fresh.ring_doorbell();
  eventually([&] { return fresh.has_completion(); });
  CHECK(fresh.next_completion() == ipc::CompletionType::done);
}

/// The client accepts what it was told. Then it goes on or has ended.
void is_in_order(Peer& peer) {
  while (peer.is_told() && !peer.has_ended()) static_cast<void>(peer.is_answered());
  peer.ask_status();
  static_cast<void>(peer.is_answered());
}

/// Checks that nothing is left of clients that have gone.
void nothing_is_left(const Running& server) {
  std::string left;
  // Asks with a new client each time: what is kept for the next results goes with the last client.
  const auto look = [&] {
    Peer looks(server);
    looks.say_hello(false);
    REQUIRE(looks.receive() == wire::Body_Welcome);
    looks.ask_status();
    REQUIRE(looks.receive() == wire::Body_StatusReply);
    const auto& told = *looks.frame().body_as_StatusReply();
    left.clear();
    const auto expect = [&](const char* what, std::uint64_t found, std::uint64_t expected) {
      if (found != expected) left += std::to_string(found) + " " + what + " ";
    };
    expect("clients", told.clients(), 1);
    expect("bytes of memory", told.memory_used_bytes(), 0);
    expect("bytes of the heap", told.heap_used_bytes(), 0);
    expect("segments", told.segments(), 0);
    expect("groups", told.groups(), 0);
    expect("objects", told.objects(), 0);
    expect("ops", told.ops_in_flight(), 0);
    return left.empty();
  };
  eventually(look);
  CHECK(left == "");
}

/// Waits until the event has had its effect, or a failed step was tried again, or nothing more happens.
void passes(const Event& event, Stage& stage) {
  constexpr std::size_t tried_again = 3;
  constexpr int quiet_ms = 20;
  std::size_t made = 0;
  for (int quiet = 0; quiet < quiet_ms && heap.failed < tried_again && !event.is_over(stage); ++quiet) {
    if (made != heap.made) quiet = 0;
    made = heap.made;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// Returns how many allocations there were.
std::size_t run(const Event& event, Running& server, std::size_t first_to_fail, std::size_t how_many) {
  INFO(event.name << ": " << how_many << " allocations fail from number " << first_to_fail << " on");
  std::size_t made = 0;
  {
    Stage stage(server);
    event.before(stage);
    {
      const Failing failing(first_to_fail, how_many);
      event.act(stage);
      passes(event, stage);
      made = heap.made;
    }
    serves_newcomers(server);
    for (auto* peer : {&stage.peer, &stage.other})
      if (*peer) is_in_order(**peer);
  }
  nothing_is_left(server);
  return made;
}

}  // namespace

TEST_CASE("whatever allocation fails, the server lives on and serves others") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr std::size_t places_max = 20;  // for each event: under a sanitizer each run takes several times as long
#else
  constexpr std::size_t places_max = 100;
#endif
  for (const auto& event : events) {
    Running server;
    nothing_is_left(server);
    const std::size_t before = open_descriptors();
    const std::size_t all = run(event, server, SIZE_MAX, 1);
    CHECK(all > 0);
    for (const std::size_t how_many : {std::size_t{1}, SIZE_MAX})
      for (std::size_t first = 1; first <= all; first += 1 + all / places_max) run(event, server, first, how_many);
    eventually([&] { return open_descriptors() <= before; });
  }
}

TEST_CASE("a client that says nothing is cut off, whatever allocation fails then") {
  Running server(std::chrono::milliseconds(20));
  constexpr std::size_t places = 12;
  for (const std::size_t how_many : {std::size_t{1}, SIZE_MAX}) {
    for (std::size_t first = 1; first <= places; ++first) {
      INFO(how_many << " allocations fail from number " << first << " on");
      Peer silent(server);
      {
        const Failing failing(first, how_many);
        eventually([&] { return silent.is_told() || heap.failed > 0; });
      }
      CHECK_FALSE(silent.is_answered());
    }
  }
}

TEST_CASE("while there is no memory, retries do not keep a core busy") {
  Running server;
  Stage stage(server);
  stage.comes();
  stage.joins();
  {
    const Failing failing(1, SIZE_MAX);
    stage.peer->hang_up();
    eventually([] { return heap.failed > 2; });
    // A few allocations fail in each attempt, and between two attempts are ten milliseconds.
    const auto began = Clock::now();
    const std::size_t before = heap.failed;
    eventually([&] { return Clock::now() - began > std::chrono::milliseconds(200); });
    const std::size_t failed = heap.failed - before;
    const auto attempts = static_cast<std::size_t>((Clock::now() - began) / std::chrono::milliseconds(10)) + 2;
    CHECK(failed > 0);
    CHECK(failed < 20 * attempts);
  }
  nothing_is_left(server);
}

TEST_CASE("a daemon that has no memory at all ends when it is told to") {
  Running server;
  Stage stage(server);
  stage.comes();
  const Failing failing(1, SIZE_MAX);
  ::raise(SIGTERM);
  CHECK(server.reason() == "it got SIGTERM");
}

TEST_CASE("a daemon that nobody needs ends, even when it had no memory for a while") {
  Running server(std::chrono::minutes(1), 0.02);
  {
    const Failing failing(1, SIZE_MAX);
    eventually([] { return heap.failed > 2; });
  }
  CHECK(server.reason() == "nobody was connected for a while");
}

namespace {

/// Does it as the control thread, while the allocation with this number fails. Stores how it ended, and whether there
/// were that many allocations.
struct Attempt {
  bool threw = false;
  bool was_hit = false;
};
template <class What>
Attempt attempt(std::size_t fails, What what) {
  Attempt made;
  const Failing failing(fails, 1);
  is_control_thread = true;
  try {
    what();
  } catch (const std::bad_alloc&) {
    made.threw = true;
  }
  is_control_thread = false;
  made.was_hit = heap.failed > 0;
  return made;
}

}  // namespace

TEST_CASE("a job for which a pool has no memory is refused, and all others are done once") {
  std::mutex mutex;
  Errand posted;
  std::atomic<std::size_t> worked{0};
  BlockingPool pool([&](Errand errand) {
    const std::lock_guard lock(mutex);
    posted.splice(posted.end(), errand);
  });
  std::size_t taken = 0;
  bool was_hit = true;
  for (std::uint32_t number = 1; was_hit; ++number) {
    const BlockingPool::Source lane{BlockingPool::Source::Of::requests, number, number};
    const auto run = [&] {
      pool.run(
          lane, [&] { ++worked; }, [] {});
    };
    const auto made = attempt(number, run);
    was_hit = made.was_hit;
    if (!made.threw) ++taken;
    run();
    ++taken;
    eventually([&] {
      const std::lock_guard lock(mutex);
      return posted.size() == taken;
    });
  }
  CHECK(worked == taken);
}

TEST_CASE("an item for which there is no memory has no turn, and all others have theirs") {
  using Jobs = Turns<int>;
  bool was_hit = true;
  for (std::size_t fails = 1; was_hit; ++fails) {
    Jobs turns;
    turns.add({.user = 1, .pid = 1, .client = {}}, Jobs::Size::large, 1);
    const auto made = attempt(fails, [&] { turns.add({.user = 1, .pid = 2, .client = {}}, Jobs::Size::small, 2); });
    was_hit = made.was_hit;
    turns.add({.user = 1, .pid = 2, .client = {}}, Jobs::Size::small, 3);
    std::vector<int> items;
    for (; !turns.empty(); turns.served(1, Jobs::Rest::nothing)) items.push_back(turns.front());
    std::sort(items.begin(), items.end());
    CHECK(items == (made.threw ? std::vector{1, 3} : std::vector{1, 2, 3}));
  }
}
