// A Token is a name under which objects stay in the store while something lives that Muster does not know, such as a
// reference in another system. The process that hears of that thing's end opens the token, and ends it then.
#pragma once

#include <memory>
#include <string>

#include <muster/result.hpp>

namespace muster {

namespace detail {
class Connection;  // client/core/connection.hpp
}

/// An open token. Ref::keep_for() puts an object under it, in any process of this user. It ends with end(), with this
/// Token, or with this process; then its objects go unless somebody else holds them.
class Token {
 public:
  Token() = default;
  Token(std::shared_ptr<detail::Connection> connection, std::string name)
      : connection_(std::move(connection)), name_(std::move(name)) {}
  Token(Token&& other) noexcept = default;
  Token& operator=(Token&& other) noexcept;
  Token(const Token&) = delete;
  Token& operator=(const Token&) = delete;
  ~Token();

  [[nodiscard]] const std::string& name() const { return name_; }
  /// False if it was moved from, or ended here.
  [[nodiscard]] bool open() const { return connection_ != nullptr; }
  /// Ends it now. Invalid if it has ended already.
  [[nodiscard]] Result<void> end();

 private:
  std::shared_ptr<detail::Connection> connection_;
  std::string name_;
};

}  // namespace muster
