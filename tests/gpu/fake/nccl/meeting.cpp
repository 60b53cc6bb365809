#include "meeting.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace fake_nccl {
namespace {

constexpr std::uint64_t magic = 0x6d75737465726e63;

struct Contents {
  std::uint64_t magic = 0;
  Address address{};
};
static_assert(sizeof(Contents) <= sizeof(ncclUniqueId));

Contents contents_of(const ncclUniqueId& id) {
  Contents contents;
  std::memcpy(static_cast<void*>(&contents), &id, sizeof(contents));
  return contents;
}

const GiveUp never = [] { return false; };

/// "Bootstrap Root" in NCCL's messages: a rank that comes twice, or with another number of ranks, ends the meeting. The
/// others aren't told.
void serve_meeting(const Socket& listener) {
  std::vector<Member> members;
  std::vector<Socket> sockets;
  std::size_t here = 0;
  do {
    auto socket = listener.accept(never);
    Member member;
    if (!socket.receive(&member, sizeof(member), never)) continue;
    if (member.only_consumes != 0) return;
    if (members.empty()) {
      members.resize(static_cast<std::size_t>(member.ranks));
      sockets.resize(members.size());
    }
    const auto rank = static_cast<std::size_t>(member.rank);
    if (static_cast<std::size_t>(member.ranks) != members.size() || sockets[rank])
      return warn("Bootstrap Root : rank " + std::to_string(rank) + " doesn't fit to those who came before");
    members[rank] = member;
    sockets[rank] = std::move(socket);
    ++here;
  } while (here == 0 || here < members.size());
  for (const auto& socket : sockets) static_cast<void>(socket.send(members.data(), members.size() * sizeof(Member)));
}

std::vector<Member> introduce(const ncclUniqueId& id, const Member& self, int device, const GiveUp& give_up) {
  const auto root = Socket::connect(device, contents_of(id).address);
  require(root.send(&self, sizeof(self)), ncclRemoteError, "the maker of the unique id has gone");
  std::vector<Member> members(static_cast<std::size_t>(self.ranks));
  if (root.receive(members.data(), members.size() * sizeof(Member), give_up)) return members;
  // NCCL's ranks listen for the root to come back, and don't see that it has gone.
  while (!give_up()) ::usleep(2000);
  throw Failure{ncclInternalError, "a wait for the other ranks was aborted"};
}

std::vector<Socket> connect_all(const std::vector<Member>& members, int rank, const Socket& listener, int device,
                                const GiveUp& give_up) {
  std::vector<Socket> sockets(members.size());
  for (int lower = 0; lower < rank; ++lower) {
    auto& socket = sockets[static_cast<std::size_t>(lower)];
    socket = Socket::connect(device, members[static_cast<std::size_t>(lower)].address);
    require(socket.send(&rank, sizeof(rank)), ncclRemoteError, "a rank has gone");
  }
  for (auto missing = static_cast<int>(members.size()) - 1 - rank; missing > 0; --missing) {
    auto socket = listener.accept(give_up);
    int higher = 0;
    require(socket.receive(&higher, sizeof(higher), give_up), ncclRemoteError, "a rank has gone");
    sockets[static_cast<std::size_t>(higher)] = std::move(socket);
  }
  return sockets;
}

/// "Two ranks of a communicator can't be on one device."
void require_own_device(const std::vector<Member>& members, int rank) {
  const auto& own = members[static_cast<std::size_t>(rank)];
  for (const auto& other : members)
    require(other.rank == rank || other.uuid != own.uuid, ncclInvalidUsage,
            "Duplicate GPU detected : rank " + std::to_string(rank) + " and rank " + std::to_string(other.rank) +
                " both on one CUDA device");
}

}  // namespace

ncclUniqueId make_unique_id() {
  Contents contents;
  contents.magic = magic;
  auto listener = std::make_shared<Socket>(Socket::listen(uncounted, contents.address));
  std::thread([listener] {
    try {
      serve_meeting(*listener);
    } catch (const Failure& failure) {
      warn(failure.text);
    }
  }).detach();
  ncclUniqueId id{};
  std::memcpy(&id, &contents, sizeof(contents));
  return id;
}

void require_unique_id(const ncclUniqueId& id) {
  require_argument(contents_of(id).magic == magic, "the unique id isn't one of ncclGetUniqueId");
}

void consume(const ncclUniqueId& id, int device) {
  Member member;
  member.only_consumes = 1;
  const auto root = Socket::connect(device, contents_of(id).address);
  static_cast<void>(root.send(&member, sizeof(member)));
}

Frame await(Mesh& mesh, int peer, Topic topic, const GiveUp& give_up) {
  const auto over = [&] { return give_up() || (deaths_are_noticed() && mesh.lost(peer)); };
  auto frame = mesh.take(peer, topic, over);
  if (frame) return std::move(*frame);
  require(give_up(), ncclRemoteError, "rank " + std::to_string(peer) + " has closed its connection");
  throw Failure{ncclInternalError, "a wait for another rank was aborted"};
}

Joined meet(const ncclUniqueId& id, int ranks, int rank, const Device& device, const GiveUp& give_up) {
  Member self;
  self.ranks = ranks;
  self.rank = rank;
  self.pid = ::getpid();
  self.uuid = device.uuid;
  const auto listener = Socket::listen(device.ordinal, self.address);
  Joined joined;
  joined.members = introduce(id, self, device.ordinal, give_up);
  auto sockets = connect_all(joined.members, rank, listener, device.ordinal, give_up);
  joined.mesh = std::make_unique<Mesh>(rank, std::move(sockets), device.ordinal);
  // Only now: the others notice that this rank goes.
  require_own_device(joined.members, rank);
  for (int peer = 0; peer < ranks; ++peer)
    if (peer != rank) joined.mesh->post(peer, {});
  for (int peer = 0; peer < ranks; ++peer)
    if (peer != rank) static_cast<void>(await(*joined.mesh, peer, Topic::control, give_up));
  return joined;
}

}  // namespace fake_nccl
