// Tokens: names under which another system keeps objects. A process opens a token and says when it ends; until then
// every object that was put under it stays. So an object can live exactly as long as something that Muster does not
// know, such as a reference of Ray.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <muster/ipc/ids.hpp>
#include <muster/result.hpp>

#include "memory/ledger.hpp"
#include "store/holders.hpp"
#include "store/object.hpp"
#include "store/pickles.hpp"

namespace musterd {

/// Each user has names of its own. A token ends when a process of its user says so, or when the process that opened it
/// is gone: nobody else would say it.
class Tokens {
 public:
  Tokens(Ledger& ledger, Pickles& pickles) : ledger_(ledger), pickles_(pickles) {}
  Tokens(const Tokens&) = delete;
  Tokens& operator=(const Tokens&) = delete;

  /// Invalid if a token of this name is open; QuotaExceeded if the opener has no heap left for it.
  [[nodiscard]] muster::Result<void> open(Payer opener, std::string name);
  /// Keeps the object until the token ends. To keep it twice is the same as once. The opener pays. Invalid if no such
  /// token is open; QuotaExceeded if the opener has no heap left.
  [[nodiscard]] muster::Result<void> keep(UserId user, std::string_view name, const ObjectPtr& object);
  /// Ends the token. Invalid if no such token is open. Its objects may be many, so this lets some of them go, and
  /// go_on() the rest.
  [[nodiscard]] muster::Result<void> end(UserId user, std::string_view name);
  /// Ends all tokens that the client opened, some now and the rest in go_on().
  void drop_client(ClientId opener);

  [[nodiscard]] bool goes_on() const { return !ended_.empty(); }
  void go_on();

 private:
  friend class NodeAudit;  ///< in the tests; adds up what is held
  struct Token {
    Payer opener;
    std::string name;
    Charge charge;
    std::map<ObjectId, Hold> holds;
  };
  using List = std::list<Token>;
  using Key = std::pair<UserId, std::string_view>;  ///< the name is the token's own

  /// False once the opener is gone: then the token ends, though it may still have its name.
  [[nodiscard]] bool is_open(const Token& token) const { return openers_.contains(token.opener.client); }
  [[nodiscard]] muster::Result<List::iterator> find(UserId user, std::string_view name) const;
  [[nodiscard]] muster::Result<void> pay(Token& token, std::size_t holds);
  /// Lets objects of an ended token go, at most `left` of them. True if none is left.
  bool let_go(Token& token, std::size_t& left);

  Ledger& ledger_;
  Pickles& pickles_;
  std::map<ClientId, List> openers_;
  std::map<Key, List::iterator> open_;
  List ended_;  ///< tokens that still have objects. Those of an opener that is gone may still be in open_
};

}  // namespace musterd
