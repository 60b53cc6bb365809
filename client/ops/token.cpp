// Tokens: opened, used by refs, and ended.
#include <muster/token.hpp>

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include <muster/client.hpp>
#include <muster/ipc/text.hpp>
#include <muster/ref.hpp>

#include "core/connection.hpp"
#include "core/requests.hpp"
#include "holds.hpp"

namespace muster {

namespace wire = ipc::wire;

namespace {

constexpr std::chrono::seconds answer_wait{30};

}  // namespace

Result<Token> Client::open_token(std::string name) {
  auto opened = detail::ask(*connection_, wire::Body_OpenToken, answer_wait, [&](auto& fbb) {
    const auto text = fbb.CreateString(name);
    return wire::CreateOpenToken(fbb, text).Union();
  });
  if (!opened) return opened.error();
  return Token(connection_, std::move(name));
}

Result<void> Client::end_token(std::string_view name) {
  auto ended = detail::ask(*connection_, wire::Body_EndToken, answer_wait, [&](auto& fbb) {
    const auto text = fbb.CreateString(name);
    return wire::CreateEndToken(fbb, text).Union();
  });
  if (!ended) return ended.error();
  return {};
}

Result<void> Ref::keep_for(std::string_view token) const {
  auto hold = detail::usable(hold_);
  if (!hold) return hold.error();
  auto kept = detail::ask(*(*hold)->connection, wire::Body_KeepFor, answer_wait, [&](auto& fbb) {
    const auto name = fbb.CreateString(token);
    return wire::CreateKeepFor(fbb, name, (*hold)->object.value).Union();
  });
  if (!kept) return kept.error();
  return {};
}

Result<void> Token::end() {
  if (!open()) return Error(Code::invalid, fmt::format("the token '{}' has ended already", ipc::shortened(name_, 60)));
  auto ended = Client(connection_).end_token(name_);
  // Without an answer it may still be open; then the end of this Token says it again.
  if (ended || ended.error().code() == Code::invalid) connection_.reset();
  return ended;
}

Token& Token::operator=(Token&& other) noexcept {
  if (this == &other) return *this;
  const Token replaced = std::move(*this);
  connection_ = std::move(other.connection_);
  name_ = std::move(other.name_);
  return *this;
}

Token::~Token() {
  if (open()) detail::tell_token_ended(*connection_, name_);
}

}  // namespace muster
