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
struct Token {
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
  (*hold)->shared = true;
  auto& connection = *(*hold)->connection;
  detail::Scratch body;
  ipc::write(ipc::Pin{(*hold)->object}, *body);
  if (auto sent = connection.submit(ipc::SubmissionType::pin, *body); !sent) return sent.error();
  if (auto shared = connection.share((*hold)->object); !shared) return shared.error();
  Token token;
  token.incarnation = connection.welcome().incarnation;
  token.object = (*hold)->object.value;
  token.capability[0] = (*hold)->capability.bits[0];
  token.capability[1] = (*hold)->capability.bits[1];
  std::string bytes(sizeof token, '\0');
  std::memcpy(bytes.data(), &token, sizeof token);
  return bytes + connection.welcome().socket;
}

namespace detail {

Result<std::shared_ptr<const Hold>> deserialize(std::string_view bytes, const std::shared_ptr<Connection>& known) {
  Token token;
  const Token expected;
  if (bytes.size() < sizeof token)
    return Error(Code::invalid, fmt::format("a serialized ref can't have only {} bytes", bytes.size()));
  std::memcpy(&token, bytes.data(), sizeof token);
  if (std::memcmp(token.magic, expected.magic, sizeof token.magic) != 0 || token.version != expected.version)
    return Error(Code::invalid, "these bytes are not a serialized ref of this version");
  ConnectOptions options;
  options.socket = std::string(bytes.substr(sizeof token));
  options.start_daemon = false;
  auto connection = known && known->alive() && known->welcome().socket == options.socket
                        ? Result<std::shared_ptr<Connection>>(known)
                        : Connection::open_or_reuse(options);
  if (!connection && connection.error().code() == Code::daemon_unavailable)
    return Error(Code::daemon_unavailable,
                 "the daemon that has the ref's object is gone: " + connection.error().message(),
                 "make the object again");
  if (!connection) return connection.error();
  return look_up(*connection, token.incarnation, {token.object}, {{token.capability[0], token.capability[1]}},
                 Found::by_pickle);
}

}  // namespace detail

}  // namespace muster
