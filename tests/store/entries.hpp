// Objects with entries as a store makes them, but without a store: for the parts that keep objects and let them go.
#pragma once

#include <list>
#include <memory>
#include <utility>

#include "store/object.hpp"

namespace musterd::testing {

class Entries {
 public:
  explicit Entries(UserId user = 1000, ClientId maker = {1}) : user_(user), maker_(maker) {}

  ObjectPtr make(std::uint64_t bytes = 100, ObjectPtr parent = nullptr) {
    StoreEntry& entry = entries_.emplace_back();
    auto object = std::make_shared<Object>();
    object->id = entry.id = muster::ipc::make_object_id(maker_, ++made_);
    object->user = entry.user = user_;
    object->maker = entry.maker = maker_;
    object->bytes = bytes;
    object->parent = std::move(parent);
    object->entry = &entry;
    entry.weak = object;
    return object;
  }
  /// The same in a segment of the user.
  ObjectPtr make_in(const SegmentPtr& segment) {
    const auto object = std::const_pointer_cast<Object>(make());
    object->segments.push_back(segment);
    return object;
  }

 private:
  UserId user_;
  ClientId maker_;
  std::uint32_t made_ = 0;
  std::list<StoreEntry> entries_;
};

inline bool lives(const StoreEntry& entry) { return !entry.weak.expired(); }

}  // namespace musterd::testing
