// The hash of tables whose keys clients choose. It is secret, so that clients can't choose keys that are slow to find.
#pragma once

#include <cstddef>
#include <cstdint>

#include <muster/ipc/ids.hpp>

namespace musterd {

struct SecretHash {
  std::uint64_t secret = 1;  ///< odd; a new one in each run

  std::size_t operator()(std::uint64_t number) const noexcept { return number * secret; }
  template <class Tag, class Number>
  std::size_t operator()(muster::ipc::Id<Tag, Number> id) const noexcept {
    return (*this)(id.value);
  }
};

}  // namespace musterd
