// What each process has of each device, kept in the folder so that it can be read from outside and after a death.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "process.hpp"
#include "settings.hpp"

namespace fake_gpu {

enum class Item {
  contexts,
  allocations,   // cuMemAlloc and cuMemAllocAsync
  handles,       // references to memory by cuMemCreate, cuMemImportFromShareableHandle, cuMemRetainAllocationHandle
  reservations,  // cuMemAddressReserve; of no device, so they stand under device 0
  mappings,      // cuMemMap
  ipc_imports,   // cuIpcOpenMemHandle
  events,
  ipc_events,  // cuIpcOpenEventHandle
  streams,
  host_allocations,    // cuMemHostAlloc
  host_registrations,  // cuMemHostRegister
  modules,             // modules and libraries
  communicators,       // these and the following are of NCCL
  registered_buffers,
  reduce_ops,
  nccl_memory,  // ncclMemAlloc
  nccl_threads,
  nccl_sockets,
  count
};

using Counts = std::array<std::atomic<std::int64_t>, static_cast<std::size_t>(Item::count)>;

struct Book {
  ProcessId process;
  std::atomic<std::int32_t> exited;  // whether it ended by itself
  std::array<Counts, devices_max> devices;
};

/// Opens the book of this process.
void open_book();
/// A fork has copied a process that CUDA doesn't work in; nothing that it has counts twice.
void leave_book();
void count(int physical, Item item, std::int64_t change);
/// Takes the name that the item has in the JSON.
void count(int physical, const std::string& item, std::int64_t change);
/// Returns how many contexts other living processes have on this device. The folder must be locked.
std::int64_t contexts_of_others(int physical);

/// All books and all physical memory, as JSON.
std::string books_as_json();
/// Whether no device has memory, and no process has anything or ended with anything but those that were killed.
bool books_are_empty();

}  // namespace fake_gpu
