// What the collective layer knows of an object: where its bytes are and what they mean, kept readable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <muster/ipc/manifest.hpp>
#include <muster/ipc/small_vector.hpp>

namespace musterd {

struct Input {
  std::shared_ptr<const void> lease;  ///< keeps the regions readable and owns the manifest
  const muster::ipc::Manifest* manifest = nullptr;
  muster::ipc::SmallVector<const std::byte*, 1> data;  ///< of each leaf; null for leaves without bytes
};

}  // namespace musterd
