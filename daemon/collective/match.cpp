#include "collective/match.hpp"

#include "collective/agreement.hpp"

namespace musterd {

using muster::ipc::Kind;

bool is_by_order(const Contribution& contribution) {
  return contribution.key.empty() && !is_pairwise(contribution.kind) && contribution.kind != Kind::reform;
}

std::size_t Match::index_of(const Contribution& contribution) const {
  if (of == Of::pair) return contribution.kind == Kind::send ? 0 : 1;
  return static_cast<std::size_t>(contribution.rank);
}

Match match_of(const Contribution& contribution) {
  switch (contribution.kind) {
    case Kind::reform: return match_of_reforms();
    case Kind::send: return {Match::Of::pair, contribution.key, contribution.rank, contribution.root, contribution.tag};
    case Kind::recv: return {Match::Of::pair, contribution.key, contribution.root, contribution.rank, contribution.tag};
    default: return {.of = Match::Of::key, .key = contribution.key};
  }
}

Match match_of_reforms() { return {.of = Match::Of::reform, .key = {}}; }

}  // namespace musterd
