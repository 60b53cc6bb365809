// What GPUs the fake machine has: read once, at cuInit, from the environment and from the folder's file `settings`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fake_gpu {

struct DeviceSettings {
  int physical = 0;  // its index in the machine; CUDA_VISIBLE_DEVICES may give it another ordinal
  std::string name;
  std::uint64_t bytes = 0;
  int compute_major = 0;
  int compute_minor = 0;
  int compute_mode = 0;  // CUcomputemode
  std::uint64_t granularity = 0;
};

struct Settings {
  int driver_version = 0;
  bool fabric = false;
  bool read_only_access = true;        // whether cuMemSetAccess takes PROT_READ
  bool read_only_registration = true;  // whether cuMemHostRegister takes memory that is mapped for reading only
  bool late_pageable = true;           // whether asynchronous copies read and write pageable memory only when they run
  std::string nccl_deaths;             // "noticed" or "unnoticed": whether NCCL learns that a peer's process has died
  std::string peers;                   // "all", "none", or pairs like "0-1,1-0"
  std::vector<DeviceSettings> devices;

  [[nodiscard]] bool can_access_peer(int device, int peer) const;
};

/// Throws std::runtime_error for a value that means nothing: a test must not run on another machine than it asked for.
Settings read_settings();

constexpr int devices_max = 16;

}  // namespace fake_gpu
