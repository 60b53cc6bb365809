// A vector whose first few elements lie in itself. What an op of one array needs is then all in one place: the path of
// a small op allocates next to nothing.
#pragma once

#include <boost/container/small_vector.hpp>
#include <cstddef>

namespace muster::ipc {

template <class T, std::size_t count_inside>
using SmallVector = boost::container::small_vector<T, count_inside>;

}  // namespace muster::ipc
