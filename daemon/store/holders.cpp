#include "store/holders.hpp"

namespace musterd {

std::vector<Holder> Holders::first(std::size_t holds_max, TimePoint now) const {
  std::vector<Holder> found;
  for (const Hold& hold : holds) {
    if (found.size() == holds_max) break;
    found.push_back({hold.by, hold.count, {}});
  }
  if (pickles.until > now) found.push_back({Holder::PickleLease{}, 1, pickles.until - now});
  if (outcomes > 0) found.push_back({Holder::History{}, outcomes, {}});
  return found;
}

}  // namespace musterd
