// What a Ref says of its object, and the bytes it travels as.
#include <muster/ref.hpp>

#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "base/call_deadline.hpp"
#include "core/connection.hpp"
#include "base/scratch.hpp"
#include "holds.hpp"

namespace muster {

using detail::Connection;

namespace {

/// The bytes of a serialized ref: this, then the socket's path.
struct Serialized {
  char magic[4] = {'M', 'S', 'T', 'R'};
  std::uint32_t version = 1;
  std::uint64_t incarnation = 0;
  std::uint64_t object = 0;
  std::uint64_t capability[2] = {};
};

const ipc::Manifest& manifest_of(const std::shared_ptr<const detail::Hold>& hold) {
  static const ipc::Manifest nothing;
  if (!hold) return nothing;
  if (hold->described) return hold->manifest;
  auto described = detail::usable(hold);
  return described ? (*described)->manifest : nothing;
}

}  // namespace

std::size_t Ref::leaves() const { return manifest_of(hold_).leaves.size(); }
std::uint64_t Ref::nbytes() const { return manifest_of(hold_).bytes(); }
std::string_view Ref::structure() const { return manifest_of(hold_).structure; }
DType Ref::dtype(std::size_t leaf) const { return manifest_of(hold_).leaves.at(leaf).dtype; }
Shape Ref::shape(std::size_t leaf) const {
  const auto& manifest = manifest_of(hold_);
  const auto dims = manifest.shape(manifest.leaves.at(leaf));
  return {dims.begin(), dims.end()};
}

Device Ref::device(std::size_t leaf) const { return manifest_of(hold_).leaves.at(leaf).device; }

Result<std::vector<ArrayView>> Ref::get(Timeout timeout) const {
  if (auto checked = detail::check_timeout(timeout); !checked) return checked.error();
  std::optional<detail::CallDeadline> deadline;
  if (timeout) deadline.emplace(*timeout);
  auto opened = detail::open(hold_);
  if (!opened) return opened.error();
  return std::move(opened->views);
}

Result<std::string> Ref::serialize() const {
  auto hold = detail::usable(hold_);
  if (!hold) return hold.error();
  detail::Scratch body;
  ipc::write(ipc::Pin{(*hold)->object}, *body);
  if (auto sent = (*hold)->connection->submit(ipc::SubmissionType::pin, *body); !sent) return sent.error();
  return serialize_kept();
}

Result<std::string> Ref::serialize_kept() const {
  auto hold = detail::usable(hold_);
  if (!hold) return hold.error();
  (*hold)->shared = true;
  auto& connection = *(*hold)->connection;
  if (auto shared = connection.share((*hold)->object); !shared) return shared.error();
  Serialized head;
  head.incarnation = connection.welcome().incarnation;
  head.object = (*hold)->object.value;
  head.capability[0] = (*hold)->capability.bits[0];
  head.capability[1] = (*hold)->capability.bits[1];
  std::string bytes(sizeof head, '\0');
  std::memcpy(bytes.data(), &head, sizeof head);
  return bytes + connection.welcome().socket;
}

namespace detail {

Result<std::shared_ptr<const Hold>> deserialize(std::string_view bytes, const std::shared_ptr<Connection>& known) {
  Serialized head;
  const Serialized expected;
  if (bytes.size() < sizeof head)
    return Error(Code::invalid, fmt::format("a serialized ref can't have only {} bytes", bytes.size()));
  std::memcpy(&head, bytes.data(), sizeof head);
  if (std::memcmp(head.magic, expected.magic, sizeof head.magic) != 0 || head.version != expected.version)
    return Error(Code::invalid, "these bytes are not a serialized ref of this version");
  ConnectOptions options;
  options.socket = std::string(bytes.substr(sizeof head));
  options.start_daemon = false;
  auto connection = known && known->alive() && known->welcome().socket == options.socket
                        ? Result<std::shared_ptr<Connection>>(known)
                        : Connection::open_or_reuse(options);
  if (!connection && connection.error().code() == Code::daemon_unavailable)
    return Error(Code::daemon_unavailable,
                 "the daemon that has the ref's object is gone: " + connection.error().message(),
                 "make the object again");
  if (!connection) return connection.error();
  return look_up(*connection, head.incarnation, {head.object}, {{head.capability[0], head.capability[1]}},
                 Found::by_pickle);
}

}  // namespace detail

}  // namespace muster
