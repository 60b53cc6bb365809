#include "session/slow_folds.hpp"

namespace musterd {

void SlowFolds::mark(const Op& op, const Works& works, TimePoint now) {
  for (const auto& contribution : op.contributions)
    if (const Pending* pending = works.find(contribution.ticket)) mark(pending->process, now);
}

bool SlowFolds::holds_off(const Op& op, const Works& works, TimePoint now) {
  if (empty()) return false;
  forget(now);
  return std::any_of(op.contributions.begin(), op.contributions.end(), [&](const Contribution& contribution) {
    const Pending* pending = works.find(contribution.ticket);
    return pending && holds_off(pending->process);
  });
}

}  // namespace musterd
