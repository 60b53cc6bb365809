// The device addresses of this process: what they are, what lies behind them, and who may touch it.
//
// A device address is reserved without any rights, so host code that touches it dies, as on hardware. The fake itself
// works through a second mapping (the shadow), which has the same layout.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include <cuda.h>

#include "physical.hpp"
#include "process.hpp"

namespace fake_gpu {

class Context;

/// The allocation in another process that an IPC handle stands for.
struct IpcSource {
  ProcessId process;
  std::uint64_t inode = 0;
  std::uint64_t number = 0;  // tells allocations of that process apart
  /// The manual leaves use after the exporter's cuMemFree undefined; here it is an illegal address.
  [[nodiscard]] bool valid() const;
};

struct Mapping {
  std::uint64_t bytes = 0;
  std::shared_ptr<Physical> physical;
  CUmemGenericAllocationHandle handle = 0;
  std::map<int, unsigned long long> rights;  // CUmemAccess_flags by device ordinal; host_memory for the host
};

struct Range {
  enum class Kind { reservation, allocation, pool, ipc };
  Kind kind = Kind::reservation;
  CUdeviceptr base = 0;
  std::uint64_t bytes = 0;           // as the caller asked
  std::uint64_t reserved_bytes = 0;  // whole pages
  char* shadow = nullptr;
  Context* owner = nullptr;  // null for reservations
  int device = 0;            // ordinal; of all kinds but reservations
  std::uint64_t number = 0;  // CU_POINTER_ATTRIBUTE_BUFFER_ID
  std::map<CUdeviceptr, Mapping> mappings;
  IpcSource source;
  int imports = 0;        // of kind ipc: how often it is open
  int pins = 0;           // running work that uses it
  bool freed = false;     // cuMemFreeAsync was called; the stream may not be there yet
  bool exported = false;  // cuIpcGetMemHandle was called

  Range() = default;
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range();  // unmaps all of it
};

struct HostRange {
  char* base = nullptr;
  std::uint64_t bytes = 0;
  unsigned flags = 0;
  bool registered = false;  // by cuMemHostRegister; else by cuMemHostAlloc
  Context* owner = nullptr;
  std::uint64_t number = 0;
};

enum class Access { read, write };

class AddressSpace {
 public:
  class Pin {
   public:
    explicit Pin(std::shared_ptr<Range> range) : range_(std::move(range)) { ++range_->pins; }
    Pin(Pin&&) = default;
    Pin& operator=(Pin&&) = default;
    ~Pin() {
      if (range_) --range_->pins;
    }

   private:
    std::shared_ptr<Range> range_;
  };

  /// Reserves addresses; null if there are none.
  std::shared_ptr<Range> reserve(std::uint64_t bytes, std::uint64_t alignment, CUdeviceptr hint = 0);
  void map(Range& range, CUdeviceptr address, std::uint64_t bytes, std::shared_ptr<Physical> physical,
           CUmemGenericAllocationHandle handle);
  void unmap(Range& range, CUdeviceptr address);
  void remove(const std::shared_ptr<Range>& range);

  [[nodiscard]] std::shared_ptr<Range> find(CUdeviceptr address) const;
  [[nodiscard]] const std::map<CUdeviceptr, std::shared_ptr<Range>>& ranges() const { return ranges_; }
  /// The mapping that holds this address, with its start.
  static std::optional<CUdeviceptr> mapping_at(const Range& range, CUdeviceptr address);

  /// Whether all of these bytes are mapped device memory.
  [[nodiscard]] bool mapped(CUdeviceptr address, std::uint64_t bytes) const;
  /// Where these bytes lie on the host, if the device (or, without a context, any device) may touch them so.
  [[nodiscard]] char* shadow(const Context* context, CUdeviceptr address, std::uint64_t bytes, Access access) const;

  void add_host(const HostRange& range) { host_[range.base] = range; }
  void remove_host(char* base) { host_.erase(base); }
  [[nodiscard]] const HostRange* find_host(const void* address, std::uint64_t bytes = 1) const;
  [[nodiscard]] bool overlaps_host(const char* base, std::uint64_t bytes) const;
  [[nodiscard]] const std::map<char*, HostRange>& host_ranges() const { return host_; }

  [[nodiscard]] std::uint64_t next_number() { return ++last_number_; }

 private:
  std::map<CUdeviceptr, std::shared_ptr<Range>> ranges_;
  std::map<char*, HostRange> host_;
  std::uint64_t last_number_ = 0;
};

}  // namespace fake_gpu
