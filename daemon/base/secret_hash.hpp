// For tables whose keys clients choose: they must not choose which of them are slow to find, too.
#pragma once

#include <cstddef>
#include <cstdint>

#include <muster/ipc/ids.hpp>

namespace musterd {

struct SecretHash {
  std::uint64_t secret = 1;  ///< odd, of this run only

  std::size_t operator()(std::uint64_t number) const noexcept { return number * secret; }
  template <class Tag, class Number>
  std::size_t operator()(muster::ipc::Id<Tag, Number> id) const noexcept {
    return (*this)(id.value);
  }
};

}  // namespace musterd
