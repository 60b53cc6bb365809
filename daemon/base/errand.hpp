// Work that one thread hands to another. It is made where a lack of memory can be reported; handing it on takes no
// memory.
#pragma once

#include <functional>
#include <list>
#include <utility>

namespace musterd {

using Errand = std::list<std::function<void()>>;  ///< holds one function

[[nodiscard]] inline Errand errand(std::function<void()> function) {
  Errand made;
  made.push_back(std::move(function));
  return made;
}

}  // namespace musterd
