// The state of the driver in this process, and the frame of every call.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "address_space.hpp"
#include "books.hpp"
#include "context.hpp"
#include "event.hpp"
#include "failure.hpp"
#include "injection.hpp"
#include "module.hpp"
#include "settings.hpp"

namespace fake_gpu {

/// A reference to memory that the process made or imported.
struct MemoryHandle {
  std::shared_ptr<Physical> physical;
  int references = 1;
  unsigned handle_types = 0;
};

struct Driver {
  std::mutex mutex;
  std::condition_variable progress;  // work was done or enqueued, or an event completed
  bool initialized = false;
  bool forked = false;  // this process is a child of one that had initialized CUDA
  Settings settings;
  std::vector<std::unique_ptr<Context>> primaries;       // by ordinal
  std::map<Context*, std::unique_ptr<Context>> created;  // by cuCtxCreate
  AddressSpace addresses;
  std::map<CUmemGenericAllocationHandle, MemoryHandle> handles;
  std::map<Event*, std::shared_ptr<Event>> events;
  std::map<Module*, std::unique_ptr<Module>> modules;
  std::map<int, std::uint64_t> pool_thresholds;  // CU_MEMPOOL_ATTR_RELEASE_THRESHOLD by ordinal

  [[nodiscard]] int physical(int ordinal) const;
  [[nodiscard]] int ordinal(int physical) const;  // -1 if it isn't visible
  [[nodiscard]] const DeviceSettings& device(int ordinal) const;
  /// Throws CUDA_ERROR_INVALID_DEVICE for an ordinal that isn't there.
  void require_device(int ordinal) const;
  [[nodiscard]] std::vector<Context*> contexts() const;
  [[nodiscard]] Context* context(CUcontext handle) const;  // null if it isn't one
  [[nodiscard]] bool can_access_peer(int ordinal, int peer) const;
};
Driver& driver();

/// Ends a range of addresses with what is mapped there, and its lines in the books.
void forget_range(const std::shared_ptr<Range>& range);
void forget_host_range(const HostRange& range);
void destroy_event(Event& event);
/// The only pool of a device here. Its value isn't an address of anything.
CUmemoryPool default_pool(int ordinal);

/// Takes a CUfunction or a CUkernel, which are the same here. Throws for others.
Kernel& known_kernel(const void* handle);

/// The file that is there as long as this allocation is exported and not freed.
std::filesystem::path ipc_export_path(const ProcessId& process, std::uint64_t number);

enum class Need {
  nothing,      // works before cuInit
  init,         // works without a context, and with a broken one
  healthy,      // works without a context, but not with a broken one
  context,      // needs a current context that isn't broken
  any_context,  // needs a current context, which may be broken
};

/// One call of the API while it runs.
class Call {
 public:
  Call(const char* name, Need need);

  std::unique_lock<std::mutex> lock;
  [[nodiscard]] Context& context() const { return *context_; }
  /// Says which device the call is about, so that what is injected for this device happens.
  void on(int ordinal);
  /// Waits for the condition without the mutex.
  template <class Condition>
  void wait(const Condition& condition) {
    driver().progress.wait(lock, condition);
  }
  /// Waits until everything is done that this process has given to the context, to the device, or to all devices.
  void drain(const Context& context);
  void drain(int ordinal);
  void drain_all();

 private:
  void inject(int ordinal, bool only_device);
  void wait_for(const std::vector<StreamPoint>& points);
  void require_initialized(Need need) const;
  void require_context(Need need);

  const char* name_;
  Context* context_ = nullptr;
  int injected_for_ = -1;  // the ordinal of the device that was asked about last
};

template <class Body>
CUresult call(const char* name, Need need, const Body& body) noexcept {
  try {
    Call running_call(name, need);
    body(running_call);
    return CUDA_SUCCESS;
  } catch (const Failure& failure) {
    return failure.code;
  } catch (const std::bad_alloc&) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    complain(name, error.what());
    return CUDA_ERROR_UNKNOWN;
  }
}

}  // namespace fake_gpu
