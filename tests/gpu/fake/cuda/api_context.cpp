// CUDA Driver API, 6.7 Primary Context Management, 6.8 Context Management, "Peer Context Memory Access".
#include "driver.hpp"

using namespace fake_gpu;

namespace {

constexpr unsigned context_flags = CU_CTX_FLAGS_MASK;

void require_flags(unsigned flags) {
  const unsigned scheduling = flags & CU_CTX_SCHED_MASK;
  require_value((flags & ~context_flags) == 0 && (scheduling & (scheduling - 1)) == 0);
}

/// 6.8, cuCtxCreate: CUDA_ERROR_UNKNOWN if the compute mode is CU_COMPUTEMODE_PROHIBITED. "Data types used by CUDA
/// driver", CUDA_ERROR_DEVICE_UNAVAILABLE: the device belongs to another process by CU_COMPUTEMODE_EXCLUSIVE_PROCESS.
void activate(Context& context) {
  const auto& device = driver().device(context.ordinal());
  require(device.compute_mode != CU_COMPUTEMODE_PROHIBITED, CUDA_ERROR_UNKNOWN);
  const FolderLock lock;
  require(device.compute_mode != CU_COMPUTEMODE_EXCLUSIVE_PROCESS || contexts_of_others(device.physical) == 0,
          CUDA_ERROR_DEVICE_UNAVAILABLE);
  context.activate();
}

CUresult create(const char* name, CUcontext* context, unsigned flags, CUdevice device) {
  return call(name, Need::init, [&](Call& c) {
    require_value(context != nullptr);
    require_flags(flags);
    driver().require_device(device);
    c.on(device);
    auto made = std::make_unique<Context>(device, false, flags);
    activate(*made);
    current_contexts().push_back(made.get());
    *context = made->handle();
    driver().created[made.get()] = std::move(made);
  });
}

Context& known(CUcontext handle) {
  auto* context = driver().context(handle);
  require(context != nullptr, CUDA_ERROR_INVALID_CONTEXT);
  return *context;
}

void synchronize(Call& call, const Context& context) {
  call.drain(context);
  require(context.broken() == CUDA_SUCCESS, context.broken());
}

}  // namespace

extern "C" {

// 6.7, cuDevicePrimaryCtxRetain: the same context for all; it isn't pushed to the stack.
CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(context != nullptr);
    driver().require_device(device);
    c.on(device);
    auto& primary = *driver().primaries[static_cast<std::size_t>(device)];
    if (!primary.active()) activate(primary);
    ++primary.retained;
    *context = primary.handle();
  });
}

// 6.7, cuDevicePrimaryCtxRelease: the context ends with the last release. CUDA_ERROR_INVALID_CONTEXT if nobody has it.
CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    driver().require_device(device);
    c.on(device);
    auto& primary = *driver().primaries[static_cast<std::size_t>(device)];
    require(primary.active() && primary.retained > 0, CUDA_ERROR_INVALID_CONTEXT);
    if (--primary.retained == 0) primary.end(c.lock);
  });
}

// 6.7, cuDevicePrimaryCtxReset: ends the context whoever has it; what was broken is whole after that.
CUresult CUDAAPI cuDevicePrimaryCtxReset(CUdevice device) {
  return call(__func__, Need::init, [&](Call& c) {
    driver().require_device(device);
    c.on(device);
    auto& primary = *driver().primaries[static_cast<std::size_t>(device)];
    if (primary.active()) primary.end(c.lock);
  });
}

// 6.7, cuDevicePrimaryCtxGetState
CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice device, unsigned int* flags, int* active) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(flags != nullptr && active != nullptr);
    driver().require_device(device);
    c.on(device);
    const auto& primary = *driver().primaries[static_cast<std::size_t>(device)];
    *flags = primary.flags();
    *active = primary.active() ? 1 : 0;
  });
}

// 6.7, cuDevicePrimaryCtxSetFlags: also while the context is active, since CUDA 11.
CUresult CUDAAPI cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags) {
  return call(__func__, Need::init, [&](Call& c) {
    require_flags(flags);
    driver().require_device(device);
    c.on(device);
    driver().primaries[static_cast<std::size_t>(device)]->set_flags(flags);
  });
}

// 6.8, cuCtxCreate: the new context is current to the thread. Execution affinity and CIG are not supported here.
CUresult CUDAAPI cuCtxCreate(CUcontext* context, CUctxCreateParams* parameters, unsigned int flags, CUdevice device) {
  if (parameters != nullptr && (parameters->execAffinityParams != nullptr || parameters->cigParams != nullptr))
    return CUDA_ERROR_NOT_SUPPORTED;
  return create(__func__, context, flags, device);
}

CUresult CUDAAPI cuCtxCreate_v2(CUcontext* context, unsigned int flags, CUdevice device) {
  return create(__func__, context, flags, device);
}

CUresult CUDAAPI cuCtxCreate_v3(CUcontext* context, CUexecAffinityParam* parameters, int count, unsigned int flags,
                                CUdevice device) {
  if (parameters != nullptr || count != 0) return CUDA_ERROR_NOT_SUPPORTED;
  return create(__func__, context, flags, device);
}

// 6.8, cuCtxDestroy: not for primary contexts. The context is popped if it is current to this thread; to others it
// stays current, and every use there is CUDA_ERROR_CONTEXT_IS_DESTROYED.
CUresult CUDAAPI cuCtxDestroy(CUcontext handle) {
  return call(__func__, Need::init, [&](Call& c) {
    require_value(handle != nullptr);
    auto& context = known(handle);
    require(!context.primary() && context.active(), CUDA_ERROR_INVALID_CONTEXT);
    auto& stack = current_contexts();
    if (!stack.empty() && stack.back() == &context) stack.pop_back();
    context.end(c.lock);
  });
}

// 6.8, cuCtxSetCurrent: replaces the top of the stack; null pops it.
CUresult CUDAAPI cuCtxSetCurrent(CUcontext handle) {
  return call(__func__, Need::init, [&](Call&) {
    auto& stack = current_contexts();
    auto* context = handle == nullptr ? nullptr : &known(handle);
    if (context != nullptr && !context->primary()) require(context->active(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if (!stack.empty()) stack.pop_back();
    if (context != nullptr) stack.push_back(context);
  });
}

// 6.8, cuCtxGetCurrent: null if there is none, which is no error.
CUresult CUDAAPI cuCtxGetCurrent(CUcontext* context) {
  return call(__func__, Need::init, [&](Call&) {
    require_value(context != nullptr);
    const auto& stack = current_contexts();
    *context = stack.empty() ? nullptr : stack.back()->handle();
  });
}

// 6.8, cuCtxPushCurrent
CUresult CUDAAPI cuCtxPushCurrent(CUcontext handle) {
  return call(__func__, Need::init, [&](Call&) {
    require(handle != nullptr, CUDA_ERROR_INVALID_CONTEXT);
    current_contexts().push_back(&known(handle));
  });
}

// 6.8, cuCtxPopCurrent: CUDA_ERROR_INVALID_CONTEXT if the stack is empty.
CUresult CUDAAPI cuCtxPopCurrent(CUcontext* context) {
  return call(__func__, Need::init, [&](Call&) {
    auto& stack = current_contexts();
    require(!stack.empty(), CUDA_ERROR_INVALID_CONTEXT);
    if (context != nullptr) *context = stack.back()->handle();
    stack.pop_back();
  });
}

// 6.8, cuCtxGetDevice
CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) {
  return call(__func__, Need::any_context, [&](Call& c) {
    require_value(device != nullptr);
    *device = c.context().ordinal();
  });
}

// 6.8, cuCtxGetDevice_v2: null stands for the current context.
CUresult CUDAAPI cuCtxGetDevice_v2(CUdevice* device, CUcontext handle) {
  return call(__func__, handle == nullptr ? Need::any_context : Need::init, [&](Call& c) {
    require_value(device != nullptr);
    *device = (handle == nullptr ? c.context() : known(handle)).ordinal();
  });
}

// 6.8, cuCtxGetFlags
CUresult CUDAAPI cuCtxGetFlags(unsigned int* flags) {
  return call(__func__, Need::any_context, [&](Call& c) {
    require_value(flags != nullptr);
    *flags = c.context().flags();
  });
}

// 6.8, cuCtxGetApiVersion: null stands for the current context.
CUresult CUDAAPI cuCtxGetApiVersion(CUcontext handle, unsigned int* version) {
  return call(__func__, handle == nullptr ? Need::any_context : Need::init, [&](Call&) {
    require_value(version != nullptr);
    if (handle != nullptr) known(handle);
    *version = 3020;
  });
}

// 6.8, cuCtxGetStreamPriorityRange: a lower number is a greater priority.
CUresult CUDAAPI cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return call(__func__, Need::context, [&](Call&) {
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = -5;
  });
}

// 6.8, cuCtxSynchronize: waits for all work of the context, and tells of errors of earlier work.
CUresult CUDAAPI cuCtxSynchronize() {
  return call(__func__, Need::context, [&](Call& c) { synchronize(c, c.context()); });
}

// 6.8, cuCtxSynchronize_v2: null stands for the current context.
CUresult CUDAAPI cuCtxSynchronize_v2(CUcontext handle) {
  return call(__func__, handle == nullptr ? Need::context : Need::init, [&](Call& c) {
    auto& context = handle == nullptr ? c.context() : known(handle);
    require(context.active(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    synchronize(c, context);
  });
}

// "Peer Context Memory Access", cuCtxEnablePeerAccess: from the current context to memory of the peer, in this
// direction only.
CUresult CUDAAPI cuCtxEnablePeerAccess(CUcontext handle, unsigned int flags) {
  return call(__func__, Need::context, [&](Call& c) {
    auto& peer = known(handle);
    require(peer.active() && &peer != &c.context(), CUDA_ERROR_INVALID_CONTEXT);
    require_value(flags == 0);
    require(driver().can_access_peer(c.context().ordinal(), peer.ordinal()), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
    require(!c.context().has_peer(&peer), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    c.context().add_peer(peer);
  });
}

// "Peer Context Memory Access", cuCtxDisablePeerAccess
CUresult CUDAAPI cuCtxDisablePeerAccess(CUcontext handle) {
  return call(__func__, Need::context, [&](Call& c) {
    auto& peer = known(handle);
    require(c.context().has_peer(&peer), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
    c.context().remove_peer(peer);
  });
}

}  // extern "C"
