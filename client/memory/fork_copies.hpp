// What a forked child gets instead of its parent's writable memory: private pages, and copies of what is not sealed.
#pragma once

#include <cstddef>
#include <vector>

#include "arenas.hpp"

namespace muster::detail {

class ForkCopies {
 public:
  /// Call it before the fork. The arenas' lock is held from here until drop() or the end of move_in().
  void take(const Arenas& arenas);
  void drop() { copies_.clear(); }
  /// Call it in the child: from here on its writes are private.
  void move_in(const Arenas& arenas);

 private:
  struct Copy {
    std::byte* address;
    std::vector<std::byte> bytes;
    bool whole;
  };
  [[nodiscard]] static Copy copy_of(const Stretch& stretch);
  std::vector<Copy> copies_;
};

}  // namespace muster::detail
