#include "session/requests.hpp"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <muster/ipc/byte_count.hpp>
#include <muster/ipc/device_text.hpp>
#include <muster/ipc/text.hpp>
#include <muster/ipc/ring.hpp>
#include <muster/ipc/socket.hpp>
#include <muster/ipc/time_limits.hpp>

#include "base/heap_reserve.hpp"
#include "session/frame_builder.hpp"
#include "session/frames.hpp"

namespace musterd {

using muster::Code;
using muster::Device;
using muster::Error;
using muster::OnLoss;
using muster::Result;
namespace ipc = muster::ipc;

using flatbuffers::GetString;

namespace {

/// The effort of a request for memory (see effort_of_turn): making a segment or rings, and sending them.
constexpr std::size_t effort_of_system_calls = 64;

/// Requests that change nothing.
bool only_looks(wire::Body type) {
  switch (type) {
    case wire::Body_Describe:
    case wire::Body_MissingQuery:
    case wire::Body_StatusQuery:
    case wire::Body_ObjectsQuery:
    case wire::Body_GroupsQuery:
    case wire::Body_ClientsQuery: return true;
    default: return false;
  }
}

/// Requests that can wait until the daemon has memory for itself again.
bool takes_more(wire::Body type) {
  return only_looks(type) || type == wire::Body_Lease || type == wire::Body_LeaveInPlace || type == wire::Body_Join ||
         type == wire::Body_Fork || type == wire::Body_Lookup || type == wire::Body_OpenToken ||
         type == wire::Body_KeepFor;
}

/// No wait is longer than the limit; it keeps arithmetic on deadlines far from overflow.
Duration milliseconds(std::uint32_t count) {
  return std::min<Duration>(std::chrono::milliseconds(count), ipc::timeout_max);
}

}  // namespace

Result<void> Requests::handle(Client& client, std::span<const std::byte> bytes, TimePoint now) {
  const ClientId id = client.id;
  const auto& frame = *wire::GetFrame(bytes.data());
  const std::uint64_t request = frame.request();
  if (!frame.body()) return Error(Code::invalid, "the frame has no body");
  if (client.said_hello == (frame.body_type() == wire::Body_Hello))
    return Error(Code::invalid, client.said_hello ? "the client said Hello twice" : "a request came before Hello");
  if (client.said_hello && !client.greeted) return Error(Code::invalid, "a request came before Welcome");
  if (client.requests >= parts_.settings.requests_max)
    return Error(Code::quota_exceeded, fmt::format("the client has {} unanswered requests", client.requests),
                 "wait for replies before asking more");
  ++client.requests;
  if (takes_more(frame.body_type()) && heap_is_short()) {
    parts_.teller.reply_error(id, request, no_heap());
    return {};
  }
  if (frame.body_type() == wire::Body_Submit) return submit(client, request, *frame.body_as_Submit(), now);
  try {
    answer(client, request, frame, now);
  } catch (const std::bad_alloc&) {
    if (!only_looks(frame.body_type())) throw;
    parts_.teller.reply_error(id, request, no_heap());
  }
  return {};
}

void Requests::hello(Client& client, std::uint64_t request, const wire::Frame& frame, TimePoint now) {
  const auto& hello = *frame.body_as_Hello();
  const ClientId id = client.id;
  if (hello.protocol() != ipc::protocol_version)
    return refuse(id, request,
                  Error(Code::invalid,
                        fmt::format("the client speaks protocol {}, and this daemon (version {}) speaks protocol {}",
                                    hello.protocol(), parts_.settings.version, ipc::protocol_version),
                        "install the same version of Muster on both sides"));
  client.said_hello = true;
  parts_.outside.greeted(id);
  if (auto name = GetString(hello.name()); !name.empty() && name.size() <= name_bytes_max && ipc::is_text(name))
    client.name = fmt::format("{} (pid {})", name, client.credentials.pid);
  const bool rings = hello.rings();
  const auto attempt = [this, id, request, rings](Turn /*turn*/) -> Result<void> {
    Client* waiting = parts_.clients.find(id);
    if (!waiting) return {};
    if (rings)
      if (auto charged = parts_.pressure.try_with_spare(waiting->credentials.user, ipc::channel_bytes,
                                                        [&] { return parts_.clients.charge_rings(*waiting); });
          !charged)
        return charged;
    return welcome(*waiting, request, rings);
  };
  // The first attempt is ahead of the line: rings are small, and connecting should not wait for the large requests of
  // others.
  const auto done = attempt(Turn::before_others);
  if (done) return;
  if (!rings || done.error().code() != Code::out_of_memory) return refuse(id, request, done.error());
  parts_.admission.request(
      client.payer(), Admission::Size::large, now + milliseconds(hello.timeout_ms()), attempt,
      [this, id, request](const Error& error) {
        parts_.clients.guarded(
            [&] { refuse(id, request, parts_.pressure.with_holders(error, parts_.clients.sees_only(id), parts_.now)); },
            id);
      },
      {.serve = effort_of_system_calls});
}

namespace {

/// Zeros for the host.
ipc::GpuUuid uuid_of(const NodeSettings& settings, Device device) {
  const auto found = std::ranges::find(settings.gpus, device, &NodeSettings::Gpu::device);
  return found == settings.gpus.end() ? ipc::GpuUuid{} : found->uuid;
}

}  // namespace

Result<void> Requests::welcome(Client& client, std::uint64_t request, bool rings) {
  FrameBuilder out(request);
  std::vector<wire::DeviceMemory> devices;
  for (const Device device : parts_.segments.devices()) {
    const auto uuid = uuid_of(parts_.settings, device);
    devices.emplace_back(wire::Device(static_cast<std::uint8_t>(device.kind), device.index),
                         parts_.settings.quota.total[memory_of(device)], flatbuffers::make_span(uuid));
  }
  auto body = wire::CreateWelcome(
      out.fbb, ipc::protocol_version, out.fbb.CreateString(parts_.settings.version), parts_.settings.incarnation,
      client.id.value, client.credentials.pid, parts_.settings.in_flight_max,
      out.fbb.CreateString(parts_.settings.socket), parts_.settings.idle_exit_s, parts_.settings.segments_about,
      static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(parts_.settings.pickle_lease).count()),
      out.fbb.CreateVectorOfStructs(devices));
  const auto frame = out.finish(wire::Body_Welcome, body.Union());
  if (rings)
    if (auto made = parts_.outside.welcome(client.id, frame); !made) {
      client.rings = {};  // the client has no rings yet, and may wait for a long time
      return made;
    }
  client.greeted = true;
  if (rings) --client.requests;
  else parts_.teller.reply(client.id, frame);
  return {};
}

void Requests::refuse(ClientId id, std::uint64_t request, const Error& error) {
  parts_.teller.reply_error(id, request, error);
  const std::string why = fmt::format("{}: {}", parts_.clients.label(id), error.describe());
  ConnectionCharges charges;
  if (Client* client = parts_.clients.find(id)) charges = {std::move(client->descriptors), std::move(client->rings)};
  parts_.clients.erase(id);
  parts_.outside.close(id, why, std::move(charges));
}

void Requests::answer(Client& client, std::uint64_t request, const wire::Frame& frame, TimePoint now) {
  const ClientId id = client.id;
  switch (frame.body_type()) {
    case wire::Body_Hello: return hello(client, request, frame, now);
    case wire::Body_Lease: {
      const auto& body = *frame.body_as_Lease();
      const auto device = body.device() ? Device::of(body.device()->kind(), body.device()->index()) : Device::cpu();
      if (!device) return parts_.teller.reply_error(id, request, Error(Code::invalid, "Lease names an unknown device"));
      return lease(client, request, {body.bytes(), body.hard(), *device}, milliseconds(body.timeout_ms()), now);
    }
    case wire::Body_Mapped: {
      const SegmentId segment{frame.body_as_Mapped()->segment()};
      if (!segment) return seal_rings(client, request);
      return seal_segment(client, request, [&] { return parts_.segments.mapped(id, segment); });
    }
    case wire::Body_HardSeal:
      return seal_segment(client, request,
                          [&] { return parts_.segments.hard_seal(id, {frame.body_as_HardSeal()->segment()}); });
    case wire::Body_Return:
      return parts_.teller.reply(id, request, parts_.segments.give_back(id, {frame.body_as_Return()->segment()}));
    case wire::Body_LeaveInPlace: return leave_in_place(client, request, *frame.body_as_LeaveInPlace(), now);
    case wire::Body_Map: return map(client, request, {frame.body_as_Map()->segment()});
    case wire::Body_Lookup: return lookup(client, request, *frame.body_as_Lookup());
    case wire::Body_Describe: return describe(client, request, {frame.body_as_Describe()->object()});
    case wire::Body_Join: return join(client, request, *frame.body_as_Join());
    case wire::Body_Leave:
      return parts_.teller.reply(id, request,
                                 parts_.group_ops.leave(client, {frame.body_as_Leave()->seat()},
                                                        Loss::by_leaving(parts_.clients.process_text(client)), now));
    case wire::Body_Fork: return fork(client, request);
    case wire::Body_OpenToken:
    case wire::Body_KeepFor:
    case wire::Body_EndToken: return parts_.teller.reply(id, request, token(client, frame));
    case wire::Body_MissingQuery: return missing(client, request, {frame.body_as_MissingQuery()->work()});
    case wire::Body_StatusQuery:
    case wire::Body_ObjectsQuery:
    case wire::Body_GroupsQuery:
    case wire::Body_ClientsQuery: return inspect(client, request, frame, now);
    case wire::Body_Stop: return stop(client, request, *frame.body_as_Stop());
    default:
      return parts_.teller.reply_error(
          id, request,
          Error(Code::invalid, fmt::format("the request has the unknown type {}", static_cast<int>(frame.body_type())),
                "install the same version of Muster on both sides"));
  }
}

void Requests::join(Client& client, std::uint64_t request, const wire::Join& body) {
  const ClientId id = client.id;
  auto name = GetString(body.group());
  if (name.empty() || name.size() > name_bytes_max)
    return parts_.teller.reply_error(
        id, request,
        Error(Code::invalid,
              name.empty() ? "the group's name is empty"
                           : "the group's name has " + ipc::over_text(name.size(), name_bytes_max),
              "name it otherwise: name=, or MUSTER_GROUP"));
  if (!ipc::is_text(name))
    return parts_.teller.reply_error(
        id, request,
        Error(Code::invalid, fmt::format("the group's name '{}' is not valid text", ipc::shortened(name, 60)),
              "use UTF-8 without control characters and characters that can't be seen"));
  if (body.world_size() < 1 || body.world_size() > world_size_max)
    return parts_.teller.reply_error(
        id, request,
        Error(Code::invalid, fmt::format("the group can't have world_size {}", body.world_size()),
              fmt::format("use 1 to {}", world_size_max)));
  if (body.on_loss() > static_cast<std::uint8_t>(OnLoss::wait))
    return parts_.teller.reply_error(
        id, request,
        Error(Code::invalid, fmt::format("there is no on_loss {}", body.on_loss()), "use 'fail', 'shrink' or 'wait'"));
  if (body.open() && body.history_bytes() > 0)
    return parts_.teller.reply_error(
        id, request,
        Error(Code::invalid, "the group is open to other users, so it can't have a history",
              "leave history= away: a newcomer of another user must not see earlier results"));
  Group::Settings settings{std::move(name),
                           body.world_size(),
                           static_cast<OnLoss>(body.on_loss()),
                           milliseconds(body.timeout_ms()),
                           client.credentials.user,
                           body.open(),
                           body.history_bytes()};
  return parts_.group_ops.join(client, request, std::move(settings), body.rank());
}

void Requests::stop(const Client& client, std::uint64_t request, const wire::Stop& asked) {
  const ClientId id = client.id;
  if (client.credentials.user != parts_.settings.user && client.credentials.user != 0)
    return parts_.teller.reply_error(
        id, request,
        Error(Code::denied,
              fmt::format("user {} asked to end the daemon of user {}", client.credentials.user, parts_.settings.user),
              "ask its owner or root; joining it needs no such right"));
  const auto reason = GetString(asked.reason());
  parts_.teller.reply_ok(id, request);
  return parts_.outside.stop(reason.empty() || !ipc::is_text(reason) ? "asked to by " + parts_.clients.label(id)
                                                                     : reason.substr(0, name_bytes_max));
}

void Requests::lease(Client& client, std::uint64_t request, const SegmentTable::Wanted& wanted, Duration timeout,
                     TimePoint now) {
  const Payer payer = client.payer();
  const TimePoint until = now + timeout;
  const auto attempt = [this, payer, request, wanted, until](Turn turn) {
    return parts_.pressure.try_quietly([&]() -> Result<void> {
      auto segment = parts_.pressure.try_with_spare(payer.user, wanted.bytes,
                                                    [&] { return parts_.segments.lease(payer, wanted, turn); });
      if (!segment) return segment.error();
      try {
        if ((*segment)->device().is_host()) grant(payer.client, request, **segment);
        else grant_when_made(payer.client, request, *segment, until);
      } catch (const std::exception&) {
        parts_.clients.doom(payer.client);  // the client has the segment, and would never hear of it
        throw;
      }
      return {};
    });
  };
  const auto give_up = [this, id = client.id, request, memory = memory_of(wanted.device)](const Error& error) {
    parts_.clients.guarded(
        [&] {
          parts_.teller.reply_error(
              id, request, parts_.pressure.with_holders(error, parts_.clients.sees_only(id), parts_.now, memory));
        },
        id);
  };
  // A request that can never be met is refused at once, so that it does not stand in line before those that can.
  if (!parts_.segments.has(wanted.device))
    return parts_.teller.reply_error(client.id, request, ipc::no_such_device(wanted.device, parts_.segments.devices()));
  if (auto fits = parts_.ledger.possible(payer, memory_of(wanted.device), wanted.bytes); !fits)
    return parts_.teller.reply_error(client.id, request, fits.error());
  // If memory is being given back, it is worth a short wait, even for a client that would not wait for others.
  constexpr Duration on_its_way = std::chrono::milliseconds(100);
  const bool comes = parts_.disposals > 0 && parts_.admission.waiting() == 0;
  const auto size = wanted.bytes <= small_segment_bytes_max ? Admission::Size::small : Admission::Size::large;
  parts_.admission.request(payer, size, comes ? std::max(until, now + on_its_way) : until, attempt, give_up,
                           {.serve = effort_of_system_calls});
}

void Requests::grant(ClientId client, std::uint64_t request, const Segment& segment) {
  parts_.teller.reply(client, frames::segment(request, segment), segment.descriptors());
}

Result<void> Requests::submit(Client& client, std::uint64_t request, const wire::Submit& part, TimePoint now) {
  const ClientId id = client.id;
  const auto refuse_part = [&](const Error& error) -> Result<void> {
    parts_.teller.reply_error(id, request, error);
    return {};
  };
  if (!part.body()) return refuse_part(Error(Code::invalid, "the Submit has no record"));
  const std::span body(reinterpret_cast<const std::byte*>(part.body()->data()), part.body()->size());
  if (part.offset() == 0) client.parts = {};
  Client::Parts whole;
  if (part.offset() != 0 || part.more()) {
    if (auto taken = take_part(client, part); !taken) {
      client.parts = {};
      return refuse_part(parts_.pressure.with_holders(taken.error(), parts_.clients.sees_only(id), now));
    }
    if (!part.more()) whole = std::exchange(client.parts, {});
  }
  if (!part.more()) {
    const bool in_parts = part.offset() != 0;
    auto handled = in_parts
                       ? parts_.records.handle(client, static_cast<ipc::SubmissionType>(whole.type), whole.bytes, now)
                       : parts_.records.handle(client, static_cast<ipc::SubmissionType>(part.type()), body, now);
    if (!handled) return handled;
  }
  parts_.teller.reply_ok(id, request);
  return {};
}

Result<void> Requests::take_part(Client& client, const wire::Submit& part) {
  auto& [type, bytes, charges] = client.parts;
  if (part.offset() == 0) type = part.type();
  if (part.offset() != bytes.size() || part.type() != type)
    return Error(Code::invalid,
                 fmt::format("a part of a record begins at offset {}, and {} bytes of the record have come",
                             part.offset(), bytes.size()));
  // Many small parts would cost more than they bring.
  constexpr std::size_t part_bytes_min = 4096;
  if (part.more() && part.body()->size() < part_bytes_min)
    return Error(Code::invalid,
                 fmt::format("a part of a record has {} bytes and is not the last one", part.body()->size()));
  if (part.body()->size() > ipc::submit_bytes_max - bytes.size())
    return Error(Code::invalid, "a record has more than " + ipc::bytes_text(ipc::submit_bytes_max));
  auto charge = parts_.pressure.try_at_once(client.credentials.user, part.body()->size(), [&] {
    return parts_.ledger.charge(client.payer(), Resource::memory, part.body()->size());
  });
  if (!charge) return charge.error();
  const auto* begin = reinterpret_cast<const std::byte*>(part.body()->data());
  bytes.insert(bytes.end(), begin, begin + part.body()->size());
  charges.push_back(std::move(*charge));
  return {};
}

/// Charges for a request that others can make wait for as long as they like. The charge lasts until the request is
/// done, even if its client has gone meanwhile.
Result<std::shared_ptr<Requests::Waiting>> Requests::charge_waiting(const Client& client, std::uint64_t bytes) {
  auto charge = parts_.ledger.charge(client.payer(), Resource::heap, bytes);
  if (!charge) return charge.error();
  auto waiting = std::make_shared<Waiting>();
  waiting->charge = std::move(*charge);
  waiting_.push_back(*waiting);
  return waiting;
}

void Requests::seal_segment(const Client& client, std::uint64_t request,
                            const std::function<Result<SegmentTable::Sealing>()>& begin) {
  const ClientId id = client.id;
  auto waiting = charge_waiting(client, waiting_seal_bytes);
  if (!waiting) return parts_.teller.reply_error(id, request, waiting.error());
  auto sealing = begin();
  if (!sealing) return parts_.teller.reply_error(id, request, sealing.error());
  run_sealing(id, request, std::move(*sealing), std::move(*waiting));
}

/// The charge of the connection covers the wait.
void Requests::seal_rings(Client& client, std::uint64_t request) {
  if (client.rings.memory.amount() == 0)
    return parts_.teller.reply_error(client.id, request, Error(Code::invalid, "the client has no rings"));
  if (std::exchange(client.mapped_rings, true))
    return parts_.teller.reply_error(client.id, request, Error(Code::invalid, "the client's rings were mapped before"));
  run_sealing(client.id, request, parts_.outside.seal_rings(client.id), nullptr);
}

void Requests::run_sealing(ClientId id, std::uint64_t request, SegmentTable::Sealing sealing,
                           std::shared_ptr<Waiting> waiting) {
  parts_.outside.run_blocking(id, std::move(sealing.work),
                              [this, id, request, waiting = std::move(waiting), finish = std::move(sealing.finish)] {
                                parts_.event(id, [&] { parts_.teller.reply(id, request, finish()); });
                              });
}

void Requests::map(Client& client, std::uint64_t request, SegmentId id) {
  auto segment = parts_.segments.readable(id, client.credentials.user);
  if (!segment && segment.error().code() == Code::denied && parts_.store.holds().is_lent(client.id, id))
    segment = parts_.segments.find(id);
  if (!segment) return parts_.teller.reply_error(client.id, request, segment.error());
  if (auto added = parts_.segments.add_reader(*segment, client.payer()); !added)
    return parts_.teller.reply_error(client.id, request, added.error());
  parts_.teller.reply(client.id, frames::segment(request, **segment), (*segment)->descriptors());
}

void Requests::lookup(const Client& asks, std::uint64_t request, const wire::Lookup& asked) {
  const ClientId id = asks.id;
  if (!asked.capability())
    return parts_.teller.reply_error(id, request, Error(Code::invalid, "the Lookup has no capability"));
  const auto incarnation = asked.incarnation();
  const ObjectId object{asked.object()};
  const Capability capability{{asked.capability()->low(), asked.capability()->high()}};
  const auto found_by = asked.pickled() ? Store::Found::by_pickle : Store::Found::again;
  if (incarnation != parts_.settings.incarnation)
    return parts_.teller.reply_error(
        id, request,
        Error(Code::daemon_restarted,
              "the ref was made by another run of the daemon: an older one, whose objects are gone, or one on another "
              "socket",
              "make the object again, or connect to the daemon that has it: MUSTER_SOCKET"));
  auto waiting = charge_waiting(asks, waiting_lookup_bytes);
  if (!waiting) return parts_.teller.reply_error(id, request, waiting.error());
  // The maker's seal may still be unread in its ring, although it was written before this request.
  const auto answer = [this, id, request, object, capability, found_by] {
    Client* client = parts_.clients.find(id);
    if (!client) return;
    if (auto room = has_room_to_describe(*client, object); !room)
      return parts_.teller.reply_error(id, request, room.error());
    auto found = parts_.store.lookup(object, capability, client->payer(), found_by);
    if (!found) return parts_.teller.reply_error(id, request, found.error());
    reply_object(id, request, **found);
  };
  const auto later = [this, id, answer, waiting = std::move(*waiting)] { parts_.event(id, answer); };
  if (parts_.outside.after_ring(ipc::maker_of(object), id, later)) answer();
}

void Requests::describe(Client& client, std::uint64_t request, ObjectId object) {
  auto found = parts_.store.held(object, client.payer());
  if (!found) return parts_.teller.reply_error(client.id, request, found.error());
  if (auto room = has_room_to_describe(client, object); !room)
    return parts_.teller.reply_error(client.id, request, room.error());
  reply_object(client.id, request, **found);
}

void Requests::reply_object(ClientId id, std::uint64_t request, const Object& object) {
  constexpr std::size_t around = 256;
  FrameBuilder out(request, ipc::encoded_bytes(object.manifest) + around);
  const wire::Capability capability(object.capability.bits[0], object.capability.bits[1]);
  const auto bytes = [&] {
    std::vector<std::byte> manifest;
    ipc::encode(object.manifest, manifest);
    return out.fbb.CreateVector(reinterpret_cast<const std::uint8_t*>(manifest.data()), manifest.size());
  }();
  const auto body = wire::CreateObject(out.fbb, object.id.value, &capability, bytes);
  parts_.teller.reply(id, out.finish_in_place(wire::Body_Object, body.Union()), {});
}

/// Checks that there is room for the reply while it is built. After that the server charges for what is not read.
Result<void> Requests::has_room_to_describe(const Client& client, ObjectId object) {
  constexpr std::size_t small = 16 << 10;
  constexpr std::size_t copies = 2;
  const std::size_t bytes = parts_.store.description_bytes(object);
  if (bytes <= small) return {};
  return parts_.ledger.has_room(client.payer(), Resource::heap, copies * bytes);
}

void Requests::fork(Client& client, std::uint64_t request) {
  auto descriptor = parts_.ledger.charge(client.payer(), Resource::fds, 1, lifeline_bytes);
  if (!descriptor) return parts_.teller.reply_error(client.id, request, descriptor.error());
  const ClientId heir = parts_.clients.next_heir();
  const auto line = parts_.outside.watch_lifeline(client.id, heir);
  if (!line) return parts_.teller.reply_error(client.id, request, line.error());
  parts_.clients.add_lifeline(heir, {client.id, std::move(*descriptor)});
  parts_.store.holds().inherit(client.id, heir);
  const int fd = line->get();
  parts_.teller.reply(client.id, frames::ok(request), {&fd, 1});
}

Result<void> Requests::token(const Client& client, const wire::Frame& frame) {
  const Payer payer = client.payer();
  Tokens& tokens = parts_.store.tokens();
  if (const auto* keep = frame.body_as_KeepFor()) {
    auto object = parts_.store.held({keep->object()}, payer);
    if (!object) return object.error();
    if ((*object)->user != payer.user)
      return Error(Code::denied, label_of({keep->object()}) + " belongs to another user, so no token can keep it",
                   "copy it: muster.put(ref.get())");
    return tokens.keep(payer.user, flatbuffers::GetStringView(keep->token()), *object);
  }
  if (const auto* end = frame.body_as_EndToken())
    return tokens.end(payer.user, flatbuffers::GetStringView(end->token()));
  auto name = GetString(frame.body_as_OpenToken()->token());
  if (name.empty() || name.size() > name_bytes_max || !ipc::is_text(name))
    return Error(Code::invalid, fmt::format("a token can't be named '{}'", ipc::shortened(name, 60)),
                 fmt::format("use 1 to {} bytes of UTF-8 without control characters", name_bytes_max));
  return tokens.open(payer, std::move(name));
}

void Requests::inspect(const Client& client, std::uint64_t request, const wire::Frame& frame, TimePoint now) {
  const auto only = parts_.clients.sees_only(client.id);
  const auto shown = [&] {
    switch (frame.body_type()) {
      case wire::Body_ObjectsQuery:
        return parts_.inspect.objects(request, only, frame.body_as_ObjectsQuery()->limit(), now);
      case wire::Body_GroupsQuery: return parts_.inspect.groups(request, only);
      case wire::Body_ClientsQuery: return parts_.inspect.clients(request, only, now);
      default: return parts_.inspect.status(request, only, parts_.started, now);
    }
  }();
  parts_.teller.reply(client.id, shown);
}

void Requests::missing(Client& client, std::uint64_t request, WorkId work) {
  const Pending* found = parts_.works.find(client.id, work);
  std::vector<int> ranks;
  if (found && found->group) ranks = found->group->muster->missing(found->op);
  parts_.teller.reply(client.id, frames::missing(request, ranks), {});
}

}  // namespace musterd
