// What this process has left in place for others: memory of GPUs that it has allocated by itself. It keeps that until
// the daemon says that nobody else has it open.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include <muster/ipc/ids.hpp>

#include "base/ordered_mutex.hpp"
#include "device/cuda.hpp"

namespace muster::detail {

class LeftInPlace {
 public:
  /// Keeps memory that others may have open. It may be let go of on any thread that uses the connection, without a
  /// lock.
  using Owner = std::shared_ptr<const void>;

  /// `mutex` is the connection's, for all of its memory.
  explicit LeftInPlace(OrderedMutex& mutex) : mutex_(mutex) {}

  /// The daemon knows the memory as this segment. Without one, it may know it, and nobody heard: then it is kept until
  /// end(). After that, nothing is kept.
  void add(ipc::SegmentId segment, CudaSharedPtr memory, Owner owner);
  [[nodiscard]] bool keeps_any() const;
  /// One more array lies in it.
  void add_owner(ipc::SegmentId segment, Owner owner);
  /// Nobody else has it open any more.
  void over(ipc::SegmentId segment);
  /// The connection has ended: nobody will tell.
  void end();
  /// In a forked child, which shares the owners with nobody and must end none of them.
  void disown();

 private:
  struct Kept {
    std::vector<Owner> owners;
    CudaSharedPtr memory;  ///< ends before its owners
  };
  OrderedMutex& mutex_;
  bool is_over_ = false;  ///< the connection has ended
  std::unordered_multimap<ipc::SegmentId, Kept> kept_;
};

}  // namespace muster::detail
