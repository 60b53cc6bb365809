// Notices that an object ends. That may happen wherever the last ObjectPtr goes, also outside of the store.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <memory>
#include <thread>

#include "base/assert.hpp"
#include "memory/segment_table.hpp"
#include "store/object.hpp"

namespace musterd {

/// Objects that have ended. It is shared with the objects. An end on another thread than the store's would be a data
/// race.
class Ends {
 public:
  explicit Ends(SegmentTable& segments) : segments_(segments) {}
  void note(StoreEntry& entry) {
    MUSTER_ASSERT(std::this_thread::get_id() == thread_, "objects are let go where the store lives");
    if (closed_) return;
    noted_.push_back(entry);
    ++count_;
  }
  /// Null if there is none.
  [[nodiscard]] StoreEntry* take() {
    if (noted_.empty()) return nullptr;
    StoreEntry& entry = noted_.front();
    noted_.pop_front();
    --count_;
    return &entry;
  }
  [[nodiscard]] std::size_t count() const { return count_; }
  /// The store ends, and its entries with it.
  void close() {
    closed_ = true;
    noted_.clear();
  }
  /// Has a large description freed elsewhere, as that takes longer than the control thread has time for.
  void bury(Object& object);

 private:
  SegmentTable& segments_;
  std::thread::id thread_ = std::this_thread::get_id();
  boost::intrusive::list<StoreEntry, boost::intrusive::base_hook<GoneHook>, boost::intrusive::constant_time_size<false>>
      noted_;
  std::size_t count_ = 0;
  bool closed_ = false;
};

/// An object together with the Ends that its end is noted in, wherever the last pointer goes.
struct Watched {
  Watched() = default;
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
  ~Watched() {
    if (!ends) return;
    ends->note(*object.entry);
    ends->bury(object);
  }
  Object object;
  std::shared_ptr<Ends> ends;  ///< null until the store has the object
};

}  // namespace musterd
