// What a forked child gets instead of its parent's writable memory: private pages, and copies of what is not sealed.
#pragma once

#include <cstddef>
#include <vector>

#include "arena.hpp"

namespace muster::detail {

class ForkCopies {
 public:
  /// Before the fork. The arena's lock is held from here until drop() or the end of move_in().
  void take(const Arena& arena);
  void drop() { copies_.clear(); }
  /// In the child: from here on what it writes stays in it.
  void move_in(const Arena& arena);

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
