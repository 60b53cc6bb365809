// What the collective layer knows of an object: where its bytes are and what they mean, kept readable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <muster/ipc/manifest.hpp>

namespace musterd {

struct Input {
  std::shared_ptr<const void> lease;  ///< keeps the regions readable and owns the manifest and the addresses
  const muster::ipc::Manifest* manifest = nullptr;
  std::span<const std::byte* const> addresses;  ///< of each leaf; null for leaves without bytes
};

}  // namespace musterd
