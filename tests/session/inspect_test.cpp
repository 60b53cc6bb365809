// What the node tells about itself, and to whom. No node, no socket: the parts that are looked at.
#include <catch2/catch.hpp>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include <muster/ipc/socket.hpp>

#include "recorder.hpp"
#include "session/frame_builder.hpp"
#include "session/inspect.hpp"
#include "store/world.hpp"

using namespace musterd;
using namespace musterd::testing;
using muster::OnLoss;

namespace {

constexpr UserId owner = 0;
constexpr UserId alice = 1000;
constexpr UserId bob = 2000;

struct Looked : StoreWorld {
  Looked() {
    settings.quota = memory_quota(256 * mebibyte);
    settings.version = "test";
    settings.lanes = 3;
  }
  Payer connect(std::uint32_t id, UserId user) {
    REQUIRE(clients.add({id}, {user, static_cast<std::int32_t>(1000 + id)}, start));
    clients.find({id})->name = "client " + std::to_string(id);
    return clients.find({id})->payer();
  }
  GroupPtr group(const std::string& name, UserId user, bool open = false) {
    Group::Settings made{
        .name = name, .world_size = 2, .on_loss = OnLoss::fail, .timeout = {}, .user = user, .open = open};
    const auto state = std::make_shared<GroupState>(std::move(made), Muster::Limits{}, Charge{});
    groups.emplace(key_of(state->group.settings()), state);
    return state;
  }
  static void sit(const GroupPtr& state, std::uint32_t client, int rank) {
    REQUIRE(state->group.join(state->group.settings(), Seat{{client}, {client}, rank}));
  }

  NodeSettings settings;
  Admission admission{100};
  Recorder outside;
  Clients clients{ledger, owner, "host"};
  Teller teller{clients, outside};
  Works works{clients, teller, store, outside, 1};
  Groups groups;
  OpCounts counts;
  Inspect inspect{{settings, ledger, segments, store, admission, clients, works, groups, counts}};
  Inspect::Frame frame;  ///< the latest

  const ipc::wire::StatusReply& status(std::optional<UserId> only) {
    frame = inspect.status(7, only, start, start + std::chrono::seconds(5));
    return *ipc::wire::GetFrame(frame.data())->body_as_StatusReply();
  }
  const ipc::wire::Objects& objects(std::optional<UserId> only, std::size_t limit = 0) {
    frame = inspect.objects(7, only, limit, start + std::chrono::seconds(5));
    return *ipc::wire::GetFrame(frame.data())->body_as_Objects();
  }
  std::set<std::string> names_of_groups(std::optional<UserId> only) {
    frame = inspect.groups(7, only);
    std::set<std::string> names;
    for (const auto* each : *ipc::wire::GetFrame(frame.data())->body_as_Groups()->groups())
      names.insert(each->name()->str());
    return names;
  }
};

}  // namespace

TEST_CASE("the status says what the ledger does") {
  Looked node;
  const auto first = node.connect(1, alice);
  const auto second = node.connect(2, bob);
  node.segment_of(first, 2 * mebibyte);
  node.segment_of(second, mebibyte);
  node.counts.ops_done = 11;
  const auto& all = node.status(std::nullopt);
  CHECK(ipc::wire::GetFrame(node.frame.data())->request() == 7);
  CHECK(all.memory_bytes() == 256 * mebibyte);
  CHECK(all.memory_used_bytes() == 3 * mebibyte);
  CHECK(all.uptime_s() == 5);
  CHECK(all.lanes() == 3);
  CHECK(all.ops_done() == 11);
  CHECK(all.segments() == 2);
  REQUIRE(all.users()->size() == 2);
  CHECK(all.users()->Get(0)->name()->str() == "uid 1000");  // the one with the most comes first
  CHECK(all.users()->Get(0)->memory_bytes() == 2 * mebibyte);
}

TEST_CASE("a user sees its own account and no other's") {
  Looked node;
  node.segment_of(node.connect(1, alice));
  node.segment_of(node.connect(2, bob));
  const auto& seen = node.status(bob);
  REQUIRE(seen.users()->size() == 1);
  CHECK(seen.users()->Get(0)->name()->str() == "uid 2000");
  CHECK(seen.users_total() == 1);
  CHECK(node.status(3000).users()->size() == 0);
}

TEST_CASE("a list of objects shows each user its own, and who holds them") {
  Looked node;
  const auto maker = node.connect(1, alice);
  const auto reader = node.connect(2, alice);
  const auto stranger = node.connect(3, bob);
  const auto object = node.seal(maker, array(node.segment_of(maker), 0, 100));
  node.seal(stranger, array(node.segment_of(stranger), 0, 7));
  REQUIRE(node.store.holds().add(node.store.held(object, maker).value(), reader));
  const auto& seen = node.objects(alice);
  REQUIRE(seen.objects()->size() == 1);
  const auto& row = *seen.objects()->Get(0);
  CHECK(row.object() == object.value);
  CHECK(row.bytes() == 400);
  CHECK(row.dtype()->str() == "float32");
  CHECK(row.device()->str() == "cpu");
  REQUIRE(row.shape()->size() == 1);
  CHECK(row.shape()->Get(0) == 100);
  CHECK(row.maker()->str() == "client 1");
  CHECK(row.maker_pid() == 1001);
  CHECK(row.holders()->size() == 2);
  CHECK(row.in_ops() == 0);
  CHECK(row.age_s() == 5);
  CHECK(node.objects(std::nullopt).objects()->size() == 2);
}

TEST_CASE("a list of objects shows holders of each kind, and how many more there are") {
  Looked node;
  const auto maker = node.connect(1, alice);
  const auto id = node.seal(maker, array(node.segment_of(maker), 0, 100));
  const auto object = node.store.held(id, maker).value();
  const auto seen = [&] {
    const auto& row = *node.objects(alice).objects()->Get(0);
    std::vector<std::string> texts;
    for (const auto* text : *row.holders()) texts.push_back(text->str());
    return std::pair(texts, row.pinned_s());
  };
  using Texts = std::vector<std::string>;
  CHECK(seen() == std::pair(Texts{"client 1"}, 0.0));

  constexpr ClientId heir{0xf000'0001};
  node.clients.add_lifeline(heir, {maker.client, {}});
  node.store.holds().inherit(maker.client, heir);
  REQUIRE(node.store.holds().release(id, maker.client));
  const auto reader = node.connect(2, alice);
  for (int i = 0; i < 3; ++i) REQUIRE(node.store.holds().add(object, reader));
  REQUIRE(node.store.pin(id, reader, start));
  object->entry->holders.outcomes = 2;
  const double left = 600 - 5;
  CHECK(seen() == std::pair(Texts{"forked child of client 1", "client 2 x3", "history of 2 ops"}, left));

  for (std::uint32_t i = 3; i < 20; ++i) REQUIRE(node.store.holds().add(object, node.connect(i, alice)));
  object->entry->holders.outcomes = 1;
  const auto texts = seen().first;
  REQUIRE(texts.size() == 18);
  CHECK(texts[15] == "client 16");
  CHECK(texts[16] == "and 3 more");
  CHECK(texts[17] == "history of 1 op");
}

TEST_CASE("a list ends at its limit and says how many there are") {
  Looked node;
  const auto maker = node.connect(1, alice);
  const auto segment = node.segment_of(maker, mebibyte);
  for (std::uint64_t i = 0; i < 50; ++i) node.seal(maker, array(segment, 64 * i, 1));
  const auto& some = node.objects(alice, 10);
  CHECK(some.objects()->size() == 10);
  CHECK(some.total() == 50);
  CHECK(node.objects(std::nullopt, 10).total() == 50);
}

TEST_CASE("a user sees its own groups and the open ones in which it sits") {
  Looked node;
  node.connect(1, alice);
  node.connect(2, bob);
  Looked::sit(node.group("of alice", alice), 1, 0);
  Looked::sit(node.group("of bob", bob), 2, 0);
  Looked::sit(node.group("open, bob sits in it", alice, true), 2, 1);
  node.group("open, nobody sits in it", alice, true);
  CHECK(node.names_of_groups(bob) == std::set<std::string>{"of bob", "open, bob sits in it"});
  CHECK(node.names_of_groups(alice) ==
        std::set<std::string>{"of alice", "open, bob sits in it", "open, nobody sits in it"});
  CHECK(node.names_of_groups(std::nullopt).size() == 4);
}

TEST_CASE("a list of clients says what each holds") {
  Looked node;
  const auto maker = node.connect(1, alice);
  node.connect(2, bob);
  node.seal(maker, array(node.segment_of(maker, mebibyte), 0, 1));
  node.frame = node.inspect.clients(7, alice, start + std::chrono::seconds(3));
  const auto& seen = *ipc::wire::GetFrame(node.frame.data())->body_as_Clients();
  REQUIRE(seen.clients()->size() == 1);
  CHECK(seen.total() == 1);
  const auto& row = *seen.clients()->Get(0);
  CHECK(row.client() == 1);
  CHECK(row.uid() == alice);
  CHECK(row.memory_bytes() == mebibyte);
  CHECK(row.objects() == 1);
  CHECK(row.held() == 1);
  CHECK(row.idle_s() == 3);
}
