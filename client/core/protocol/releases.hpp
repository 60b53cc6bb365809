// What the daemon is to be told of holds and mappings that ended here, and why an object of this process never came to
// be. Pure: who has the ring asks what to write next.
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
  /// False: the object never was, so there is nothing to give up.
  [[nodiscard]] bool hold_ended(ipc::ObjectId object);
  /// Its users are told why until its hold has ended. If that was before, the daemon says `object_gone` when it has
  /// read the release.
  void seal_failed(ipc::ObjectId object, const Error& error) { seal_errors_.emplace(object, error); }
  void object_gone(ipc::ObjectId object) { seal_errors_.erase(object); }
  void unmapped(ipc::SegmentId segment) { unmapped_.push_back(segment); }
  /// What the daemon has not been told yet is not true any more.
  void mapped_again(ipc::SegmentId segment) { std::erase(unmapped_, segment); }
  /// This process is a forked child: all of it was its parent's.
  void inherited();

  // ---- what is to be told ----
  /// Writes one record; false if there is no room for it now.
  using Write = std::function<bool(ipc::SubmissionType type, std::span<const std::byte> body)>;
  /// Each record that is written is told; what is left stays.
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
