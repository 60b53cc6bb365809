#include "hold.hpp"

#include <unistd.h>

#include "connection.hpp"
#include "requests.hpp"

namespace muster::detail {

namespace wire = ipc::wire;

Hold::Hold(std::shared_ptr<Connection> connection_, ipc::ObjectId object_, ipc::Capability capability_,
           ipc::Manifest manifest_)
    : connection(std::move(connection_)),
      object(object_),
      capability(capability_),
      manifest(std::move(manifest_)),
      process(::getpid()) {}

Hold::~Hold() {
  // A hold that a fork brought along is the parent's, and its life line's.
  if (process == ::getpid()) connection->release(object);
}

namespace {

Result<std::shared_ptr<const Hold>> read_object(const std::shared_ptr<Connection>& connection,
                                                const ipc::Packet& packet) {
  const auto* body = wire::GetFrame(packet.bytes.data())->body_as_Object();
  if (!body || !body->manifest() || !body->capability())
    return Error(Code::failed, "the daemon's description makes no sense");
  auto manifest = ipc::decode({reinterpret_cast<const std::byte*>(body->manifest()->data()), body->manifest()->size()});
  if (!manifest) return manifest.error();
  return std::shared_ptr<const Hold>(std::make_shared<Hold>(
      connection, ipc::ObjectId{body->object()},
      ipc::Capability{{body->capability()->low(), body->capability()->high()}}, std::move(*manifest)));
}

Result<std::shared_ptr<const Hold>> usable_locked(const std::shared_ptr<const Hold>& hold) {
  if (hold->process != ::getpid()) {
    // The same daemon, over a connection of our own; the object is kept by the life line of the fork meanwhile.
    ConnectOptions options;
    options.socket = hold->connection->welcome().socket;
    options.start_daemon = false;
    auto connection = Connection::open_or_reuse(options);
    if (!connection) return connection.error();
    return look_up(*connection, hold->connection->welcome().incarnation, hold->object, hold->capability);
  }
  // A second hold with the description; the first one is released with `hold`.
  return look_up(hold->connection, hold->connection->welcome().incarnation, hold->object, hold->capability);
}

}  // namespace

Result<std::shared_ptr<const Hold>> look_up(const std::shared_ptr<Connection>& connection, std::uint64_t incarnation,
                                            ipc::ObjectId object, ipc::Capability capability) {
  auto packet = ask(*connection, wire::Body_Lookup, std::chrono::seconds(30), [&](auto& fbb) {
    const wire::Capability shown(capability.bits[0], capability.bits[1]);
    return wire::CreateLookup(fbb, incarnation, object.value, &shown).Union();
  });
  if (!packet) return packet.error();
  return read_object(connection, *packet);
}

Result<std::shared_ptr<const Hold>> usable(const std::shared_ptr<const Hold>& hold) {
  if (!hold) return Error(Code::object_lost, "the ref was freed", "keep a ref for as long as the object is needed");
  if (hold->process == ::getpid() && hold->described) return hold;
  const std::lock_guard lock(hold->mutex);
  if (!hold->successor || hold->successor->process != ::getpid()) {
    auto fresh = usable_locked(hold);
    if (!fresh) return fresh.error();
    hold->successor = std::move(*fresh);
  }
  return hold->successor;
}

}  // namespace muster::detail
