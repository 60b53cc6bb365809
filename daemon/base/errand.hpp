// What one thread has another do. It is made where somebody can be told that there is no memory for it; to hand it on
// takes none.
#pragma once

#include <functional>
#include <list>
#include <utility>

namespace musterd {

using Errand = std::list<std::function<void()>>;  ///< of one function

[[nodiscard]] inline Errand errand(std::function<void()> function) {
  Errand made;
  made.push_back(std::move(function));
  return made;
}

}  // namespace musterd
