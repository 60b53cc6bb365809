// A buffer for a record's body, so that small ops allocate nothing.
#pragma once

#include <cstddef>
#include <vector>

namespace muster::detail {

/// A thread uses one buffer again and again. While that one is in use, a nested Scratch makes a fresh one.
class Scratch {
 public:
  Scratch() {
    bytes_.swap(spare());
    bytes_.clear();
  }
  ~Scratch() { bytes_.swap(spare()); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::vector<std::byte>& operator*() { return bytes_; }

 private:
  static std::vector<std::byte>& spare() {
    static thread_local std::vector<std::byte> bytes;
    return bytes;
  }
  std::vector<std::byte> bytes_;
};

}  // namespace muster::detail
