#include "session/records.hpp"

#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/heap_reserve.hpp"

namespace musterd {

using muster::Code;
using muster::Error;
using muster::Result;
namespace ipc = muster::ipc;

/// Refuses new seals and combines while the heap is short. Contributions are taken even then, as others wait for them,
/// and so are records that give something back.
bool Records::refuse_while_short(const Client& client, ipc::SubmissionType type, std::span<const std::byte> body) {
  if (!heap_is_short()) return false;
  if (type == ipc::SubmissionType::combine) {
    const auto combine = ipc::read_combine(body);
    if (combine) parts_.teller.fail_work(client.id, combine->work, no_heap());
    return combine.ok();
  }
  if (type != ipc::SubmissionType::seal) return false;
  const auto seal = ipc::read_seal(body);
  if (seal) parts_.teller.tell(client.id, ipc::CompletionType::seal_failed, ipc::SealFailed{seal->object, no_heap()});
  return seal.ok();
}

Result<void> Records::seal(const Client& client, std::span<const std::byte> body, TimePoint now) {
  auto seal = ipc::read_seal(body);
  if (!seal) return seal.error();
  auto made = parts_.store.seal(client.payer(), seal->object, seal->capability, seal->parent, seal->copied_bytes,
                                std::move(seal->manifest), now);
  if (made) return {};
  parts_.teller.tell(client.id, ipc::CompletionType::seal_failed,
                     ipc::SealFailed{seal->object, parts_.pressure.with_holders(
                                                       made.error(), parts_.clients.sees_only(client.id), now)});
  return {};
}

Result<void> Records::release(const Client& client, std::span<const std::byte> body) {
  auto release = ipc::read_release(body);
  if (!release) return release.error();
  for (const ObjectId object : release->objects) {
    auto released = parts_.store.holds().release(object, client.id);
    if (released) continue;
    if (ipc::maker_of(object) != client.id) return released.error();
    // A client may release an object before it has read that its seal failed. Then there is nothing to release.
    if (parts_.store.held(object, client.payer()).error().code() != Code::object_lost) continue;
    parts_.teller.tell(client.id, ipc::CompletionType::object_gone, ipc::ObjectGone{object});
  }
  return {};
}

Result<void> Records::handle(Client& client, ipc::SubmissionType type, std::span<const std::byte> body, TimePoint now) {
  const ClientId id = client.id;
  if (refuse_while_short(client, type, body)) return {};
  switch (type) {
    case ipc::SubmissionType::seal: return seal(client, body, now);
    case ipc::SubmissionType::contribute: {
      auto contribute = ipc::read_contribute(body);
      if (!contribute) return contribute.error();
      parts_.group_ops.contribute(client, std::move(*contribute), now);
      return {};
    }
    case ipc::SubmissionType::release: return release(client, body);
    case ipc::SubmissionType::combine: {
      auto combine = ipc::read_combine(body);
      if (!combine) return combine.error();
      parts_.combines.start(client, *combine, now);
      return {};
    }
    case ipc::SubmissionType::pin: {
      auto pin = ipc::read_pin(body);
      if (!pin) return pin.error();
      // If the pin is refused, the user learns of it when the pickle is loaded.
      static_cast<void>(parts_.store.pin(pin->object, client.payer(), now));
      return {};
    }
    case ipc::SubmissionType::unmapped: {
      auto unmapped = ipc::read_unmapped(body);
      if (!unmapped) return unmapped.error();
      parts_.segments.unmapped(id, unmapped->segment);
      return {};
    }
    case ipc::SubmissionType::hand_over: {
      auto hand_over = ipc::read_hand_over(body);
      if (!hand_over) return hand_over.error();
      return parts_.segments.hand_over(id, hand_over->segment);
    }
    default: return Error(Code::invalid, fmt::format("the record has the unknown type {}", static_cast<int>(type)));
  }
}

}  // namespace musterd
