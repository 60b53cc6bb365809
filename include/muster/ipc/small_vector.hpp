// A vector whose first few elements lie inside it. So the path of a small op, with one array, allocates almost nothing.
#pragma once

#include <boost/container/small_vector.hpp>
#include <cstddef>

namespace muster::ipc {

template <class T, std::size_t count_inside>
using SmallVector = boost::container::small_vector<T, count_inside>;

}  // namespace muster::ipc
