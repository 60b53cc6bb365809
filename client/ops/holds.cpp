// Asks the daemon about objects: takes a hold anew, describes it, and opens its object where it lies now.
#include "holds.hpp"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "core/connection.hpp"
#include "core/requests.hpp"

namespace muster::detail {

namespace wire = ipc::wire;

namespace {

constexpr auto request_timeout = std::chrono::seconds(30);

Error makes_no_sense() { return {Code::failed, "the daemon's description of an object makes no sense"}; }

Result<ipc::Manifest> manifest_in(const wire::Object* body) {
  if (!body || !body->manifest() || !body->capability()) return makes_no_sense();
  return ipc::decode({reinterpret_cast<const std::byte*>(body->manifest()->data()), body->manifest()->size()});
}

/// Asks for the manifest, which was too large for the ring.
Result<void> describe(const Hold& hold) {
  auto packet = ask(*hold.connection, wire::Body_Describe, request_timeout,
                    [&](auto& fbb) { return wire::CreateDescribe(fbb, hold.object.value).Union(); });
  if (!packet) return packet.error();
  auto manifest = manifest_in(wire::GetFrame(packet->bytes.data())->body_as_Object());
  if (!manifest) return manifest.error();
  hold.connection->locked([&](Protocol&) {
    if (hold.described) return;  // another thread did it, and others read the manifest already
    hold.manifest = std::move(*manifest);
    hold.described = true;
  });
  return {};
}

/// Takes a hold in a forked child, over the child's own connection to the same daemon. The fork's life line keeps the
/// object meanwhile.
Result<std::shared_ptr<const Hold>> attach_anew(const Hold& hold) {
  ConnectOptions options;
  options.socket = hold.connection->welcome().socket;
  options.start_daemon = false;
  auto connection = Connection::open_or_reuse(options);
  if (!connection) return connection.error();
  return look_up(*connection, hold.connection->welcome().incarnation, hold.object, hold.capability, Found::again);
}

}  // namespace

Result<std::shared_ptr<const Hold>> look_up(const std::shared_ptr<Connection>& connection, std::uint64_t incarnation,
                                            ipc::ObjectId object, ipc::Capability capability, Found found) {
  auto packet = ask(*connection, wire::Body_Lookup, request_timeout, [&](auto& fbb) {
    const wire::Capability shown(capability.bits[0], capability.bits[1]);
    return wire::CreateLookup(fbb, incarnation, object.value, found == Found::by_pickle, &shown).Union();
  });
  if (!packet) return packet.error();
  auto manifest = manifest_in(wire::GetFrame(packet->bytes.data())->body_as_Object());
  if (!manifest) return manifest.error();
  const auto hold = std::make_shared<Hold>(connection, *connection, object, capability, std::move(*manifest));
  hold->shared = true;
  return std::shared_ptr<const Hold>(hold);
}

namespace {

std::shared_ptr<const Hold> successor_of(const Hold& hold) {
  return hold.connection->locked([&](Protocol&) { return hold.successor; });
}

/// Makes `fresh` the successor, unless another thread was faster with a successor that satisfies `will_do`. The
/// replaced successor is destroyed without the lock.
template <class WillDo>
std::shared_ptr<const Hold> succeed(const Hold& hold, std::shared_ptr<const Hold> fresh, const WillDo& will_do) {
  return hold.connection->locked([&](Protocol&) {
    if (!will_do(hold.successor)) hold.successor.swap(fresh);
    return hold.successor;
  });
}

Result<std::shared_ptr<const Hold>> usable_in_child(const std::shared_ptr<const Hold>& hold) {
  const auto serves = [](const std::shared_ptr<const Hold>& own) { return own && !own->connection->inherited(); };
  if (auto own = successor_of(*hold); serves(own)) return own;
  auto fresh = attach_anew(*hold);
  if (!fresh) return fresh.error();
  return succeed(*hold, std::move(*fresh), serves);
}

bool lies_there(const ipc::Leaf& a, const ipc::Leaf& b) { return a.segment == b.segment && a.offset == b.offset; }

}  // namespace

Result<std::shared_ptr<const Hold>> usable(const std::shared_ptr<const Hold>& hold) {
  if (!hold) return Error(Code::object_lost, "the ref was freed", "keep a ref for as long as the object is needed");
  if (hold->connection->inherited()) {
    auto own = usable_in_child(hold);
    return own ? usable(*own) : own;
  }
  if (hold->moved.load(std::memory_order_acquire)) return usable(successor_of(*hold));
  if (auto failed = hold->connection->seal_error(hold->object)) return *failed;
  if (!hold->described)
    if (auto described = describe(*hold); !described) return described.error();
  return hold;
}

Result<bool> has_moved(const Hold& hold) {
  auto fresh =
      look_up(hold.connection, hold.connection->welcome().incarnation, hold.object, hold.capability, Found::again);
  if (!fresh) return fresh.error();
  const auto& leaves = (*fresh)->manifest.leaves;
  if (std::equal(leaves.begin(), leaves.end(), hold.manifest.leaves.begin(), hold.manifest.leaves.end(), lies_there))
    return false;
  succeed(hold, std::move(*fresh), [&](const auto&) { return hold.moved.exchange(true, std::memory_order_acq_rel); });
  return true;
}

Result<ipc::ObjectIds> objects_of(const std::shared_ptr<Connection>& connection, std::span<const Ref> inputs) {
  ipc::ObjectIds objects;
  objects.reserve(inputs.size());
  for (const auto& ref : inputs) {
    auto hold = usable(ref.hold());
    if (!hold) return hold.error();
    if ((*hold)->connection != connection && !(*hold)->connection->alive()) return (*hold)->connection->end_error();
    if ((*hold)->connection != connection)
      return Error(Code::invalid,
                   fmt::format("a ref belongs to another connection than the op: {} and {}",
                               (*hold)->connection->welcome().socket, connection->welcome().socket),
                   "use refs and groups of one daemon");
    (*hold)->shared = true;
    objects.push_back((*hold)->object);
  }
  return objects;
}

Result<Opened> open(const std::shared_ptr<const Hold>& given) {
  // The object may move again before its new place is mapped, but hardly more often than this.
  constexpr int moves_max = 8;
  for (int moves = 0;; ++moves) {
    auto hold = usable(given);
    if (!hold) return hold.error();
    auto opened = open_there(*hold, (*hold)->connection->segments());
    if (opened || opened.error().code() != Code::invalid) return opened;
    auto moved = has_moved(**hold);
    if (!moved) return moved.error();
    if (!*moved) return opened;
    if (moves == moves_max)
      return Error(Code::timeout, fmt::format("the object moved {} times while it was opened", moves_max),
                   "open it again: it moves only while the daemon puts the remains of dead clients together");
  }
}

}  // namespace muster::detail
