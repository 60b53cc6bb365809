#include "store/ends.hpp"

#include <new>
#include <utility>

namespace musterd {

void Ends::bury(Object& object) try {
  constexpr std::uint64_t large = 32 << 10;
  if (object.metadata.amount() < large) return;
  struct Description {
    Manifest manifest;
    Memories memories;
  };
  auto description = std::make_shared<Description>(Description{std::move(object.manifest), std::move(object.memories)});
  segments_.dispose(object.user, std::move(description), std::move(object.metadata));
} catch (const std::bad_alloc&) {
  // Without memory for that, the description is freed at once.
}

}  // namespace musterd
