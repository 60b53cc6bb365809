#include "releases.hpp"

#include <algorithm>

#include "base/scratch.hpp"

namespace muster::detail {

bool Releases::hold_ended(ipc::ObjectId object) {
  if (seal_errors_.erase(object) > 0) return false;
  ended_.push_back(object);
  return true;
}

void Releases::inherited() {
  ended_.clear();
  unmapped_.clear();
  seal_errors_.clear();
}

void Releases::tell(const Write& write) {
  if (!tell_unmapped(write)) return;
  Scratch body;
  while (!ended_.empty()) {
    const auto count = std::min(ended_.size(), ipc::Release::objects_max);
    const auto first = ended_.end() - static_cast<std::ptrdiff_t>(count);
    (*body).clear();
    ipc::write(ipc::Release{{first, ended_.end()}}, *body);
    if (!write(ipc::SubmissionType::release, *body)) return;
    ended_.erase(first, ended_.end());
  }
}

/// Returns false if there was no room.
bool Releases::tell_unmapped(const Write& write) {
  Scratch body;
  while (!unmapped_.empty()) {
    (*body).clear();
    ipc::write(ipc::Unmapped{unmapped_.back()}, *body);
    if (!write(ipc::SubmissionType::unmapped, *body)) return false;
    unmapped_.pop_back();
  }
  return true;
}

std::optional<Error> Releases::seal_error(ipc::ObjectId object) const {
  const auto found = seal_errors_.find(object);
  return found == seal_errors_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace muster::detail
