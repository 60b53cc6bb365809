#include "session/teller.hpp"

#include "session/frames.hpp"

namespace musterd {

using muster::Error;
using muster::Result;

void Teller::reply(ClientId id, std::span<const std::byte> frame, std::span<const int> fds) {
  Client* client = clients_.find(id);
  if (!client) return;
  outside_.send(id, frame, fds);
  --client->requests;
}

void Teller::reply(ClientId id, std::uint64_t request, const Result<void>& result) {
  if (!result) return reply_error(id, request, result.error());
  reply(id, frames::ok(request));
}

void Teller::reply_error(ClientId id, std::uint64_t request, const Error& error) {
  reply(id, frames::failure(request, error));
}

}  // namespace musterd
