// Takes memory before it is needed, so that what follows can't fail.
#pragma once

#include <vector>

namespace musterd {

/// Makes room for one more element, so that adding it can't fail.
template <class T>
void make_room_in(std::vector<T>& vector) {
  if (vector.size() == vector.capacity()) vector.reserve(2 * vector.size() + 1);
}

}  // namespace musterd
