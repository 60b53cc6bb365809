// Physical memory of a device: a memfd for each allocation, which lives as long as anybody has it in any way.
//
// Nobody counts references. Each memfd carries a shared flock, which belongs to its open file: the kernel drops it with
// the last descriptor, mapping and message that has this file, in whatever process, however that ended.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "folder.hpp"

namespace fake_gpu {

constexpr int host_memory = -1;  // memory of the host by cuMemCreate

class Physical {
 public:
  struct Properties {
    int device = 0;  // physical index, or host_memory
    std::uint64_t bytes = 0;
    unsigned handle_types = 0;  // CUmemAllocationHandleType bits that it may be exported as
    bool vmm = false;           // made by cuMemCreate
    friend bool operator==(const Properties&, const Properties&) = default;
  };

  /// Returns null if the device has no room for it.
  static std::shared_ptr<Physical> make(const Properties& properties, std::uint64_t device_bytes);
  /// Takes over another process's descriptor; null if it isn't one of a fake allocation.
  static std::shared_ptr<Physical> import(Fd fd);

  [[nodiscard]] const Properties& properties() const noexcept { return properties_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::uint64_t inode() const noexcept { return inode_; }
  Physical(const Physical&) = delete;
  Physical& operator=(const Physical&) = delete;
  ~Physical();

  /// In the child of a fork: closes what it has of its parent's memory, which CUDA wouldn't have given to it.
  static void leave_all() noexcept;

 private:
  Physical(Fd fd, const Properties& properties, std::uint64_t inode);

  Fd fd_;
  Properties properties_;
  std::uint64_t inode_;
};

struct MemoryUse {
  std::uint64_t bytes = 0;
  std::uint64_t allocations = 0;
};

/// Looks which memory is still there, by device. The folder must be locked.
std::map<int, MemoryUse> observe_memory();

}  // namespace fake_gpu
