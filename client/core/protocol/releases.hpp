// Which ended holds and mappings the daemon has yet to hear of, and why seals of this process failed. Pure: the thread
// that has the ring asks what to write next.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include <muster/ipc/ids.hpp>
#include <muster/ipc/records.hpp>
#include <muster/result.hpp>

namespace muster::detail {

class Releases {
 public:
  // ---- events ----
  /// Returns false if the object's seal failed: then there is nothing to release.
  [[nodiscard]] bool hold_ended(ipc::ObjectId object);
  /// Users of the object are told the error until its hold ends. If the hold has ended before, the daemon answers the
  /// release with `object_gone`.
  void seal_failed(ipc::ObjectId object, const Error& error) { seal_errors_.emplace(object, error); }
  void object_gone(ipc::ObjectId object) { seal_errors_.erase(object); }
  void unmapped(ipc::SegmentId segment) { unmapped_.push_back(segment); }
  /// The segment is mapped again, so the daemon must not hear that it was unmapped.
  void mapped_again(ipc::SegmentId segment) { std::erase(unmapped_, segment); }
  /// This process is a forked child: everything here belonged to its parent.
  void inherited();

  // ---- what is to be told ----
  /// Writes one record; false if there is no room for it now.
  using Write = std::function<bool(ipc::SubmissionType type, std::span<const std::byte> body)>;
  /// Calls `write` for one record after the other until it returns false. Keeps the records that were not written.
  void tell(const Write& write);
  [[nodiscard]] bool any() const { return !ended_.empty() || !unmapped_.empty(); }

  [[nodiscard]] std::optional<Error> seal_error(ipc::ObjectId object) const;
  [[nodiscard]] bool any_seal_errors() const { return !seal_errors_.empty(); }

 private:
  bool tell_unmapped(const Write& write);

  ipc::ObjectIds ended_;
  std::vector<ipc::SegmentId> unmapped_;
  std::unordered_map<ipc::ObjectId, Error> seal_errors_;
};

}  // namespace muster::detail
