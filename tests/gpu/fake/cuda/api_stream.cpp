// CUDA Driver API, 6.18 Stream Management; cuLaunchHostFunc of 6.22 Execution Control; 6.20 Stream Memory Operations.
#include <algorithm>
#include <atomic>
#include <thread>

#include "driver.hpp"

using namespace fake_gpu;

namespace {

CUresult create(const char* name, CUstream* stream, unsigned flags, int priority) {
  return call(name, Need::context, [&](Call& c) {
    require_value(stream != nullptr && (flags == CU_STREAM_DEFAULT || flags == CU_STREAM_NON_BLOCKING));
    // "If priority is outside of the range, it is clamped."
    const auto made = c.context().create_stream(flags, std::clamp(priority, -5, 0));
    count(driver().physical(c.context().ordinal()), Item::streams, 1);
    *stream = reinterpret_cast<CUstream>(made.get());
  });
}

bool is_default(CUstream handle) {
  return handle == nullptr || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD;
}

/// What a wait for the stream waits for. The legacy stream stands for all blocking streams before it.
StreamPoint end_of(Stream& stream) {
  const bool legacy = stream.context().legacy_stream_if_any().get() == &stream;
  return legacy ? stream.enqueue({}) : stream.end();
}

}  // namespace

extern "C" {

// 6.18, cuStreamCreate: CU_STREAM_DEFAULT or CU_STREAM_NON_BLOCKING.
CUresult CUDAAPI cuStreamCreate(CUstream* stream, unsigned int flags) { return create(__func__, stream, flags, 0); }

// 6.18, cuStreamCreateWithPriority
CUresult CUDAAPI cuStreamCreateWithPriority(CUstream* stream, unsigned int flags, int priority) {
  return create(__func__, stream, flags, priority);
}

// 6.18, cuStreamDestroy: returns at once; the stream ends when its work is done. Default streams can't be destroyed.
CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
  return call(__func__, Need::context, [&](Call& c) {
    require(!is_default(handle), CUDA_ERROR_INVALID_HANDLE);
    const auto stream = c.context().stream(handle);
    count(driver().physical(stream->context().ordinal()), Item::streams, -1);
    stream->close();
  });
}

// 6.18, cuStreamSynchronize: tells of errors of the work, too.
CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
  return call(__func__, Need::context, [&](Call& c) {
    const auto stream = c.context().stream(handle);
    const auto point = end_of(*stream);
    c.wait([&] { return point.reached(); });
    require(stream->context().broken() == CUDA_SUCCESS, stream->context().broken());
  });
}

// 6.18, cuStreamQuery: CUDA_ERROR_NOT_READY while there is work.
CUresult CUDAAPI cuStreamQuery(CUstream handle) {
  return call(__func__, Need::context, [&](Call& c) {
    const auto stream = c.context().stream(handle);
    require(stream->idle(), CUDA_ERROR_NOT_READY);
    if (c.context().legacy_stream_if_any() != stream) return;
    for (const auto& other : c.context().all_streams())
      require(!other->blocking() || other->idle(), CUDA_ERROR_NOT_READY);
  });
}

// 6.18, cuStreamWaitEvent: waits for the recording that is the last one now. Flags are CU_EVENT_WAIT_DEFAULT;
// CU_EVENT_WAIT_EXTERNAL is for captures only. The event may be of another context or device.
CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event, unsigned int flags) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(flags == CU_EVENT_WAIT_DEFAULT);
    const auto stream = c.context().stream(handle);
    const auto found = driver().events.find(reinterpret_cast<Event*>(event));
    require(found != driver().events.end(), CUDA_ERROR_INVALID_HANDLE);
    const auto waited = found->second;
    require(waited->state->destroyed == 0, CUDA_ERROR_INVALID_HANDLE);
    const auto recording = waited->state->recorded.load();
    Work work;
    work.ready = [waited, recording] { return waited->complete(recording); };
    stream->enqueue(std::move(work));
  });
}

// 6.18, cuStreamGetCtx: for default streams the current context.
CUresult CUDAAPI cuStreamGetCtx(CUstream handle, CUcontext* context) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(context != nullptr);
    *context = is_default(handle) ? c.context().handle() : c.context().stream(handle)->context().handle();
  });
}

// 6.18, cuStreamGetCtx_v2: there are no green contexts here.
CUresult CUDAAPI cuStreamGetCtx_v2(CUstream handle, CUcontext* context, CUgreenCtx* green) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(context != nullptr && green != nullptr);
    *context = is_default(handle) ? c.context().handle() : c.context().stream(handle)->context().handle();
    *green = nullptr;
  });
}

// 6.18, cuStreamGetDevice
CUresult CUDAAPI cuStreamGetDevice(CUstream handle, CUdevice* device) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(device != nullptr);
    *device = c.context().stream(handle)->context().ordinal();
  });
}

// 6.18, cuStreamGetFlags
CUresult CUDAAPI cuStreamGetFlags(CUstream handle, unsigned int* flags) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(flags != nullptr);
    *flags = c.context().stream(handle)->flags();
  });
}

// 6.18, cuStreamGetPriority
CUresult CUDAAPI cuStreamGetPriority(CUstream handle, int* priority) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(priority != nullptr);
    *priority = c.context().stream(handle)->priority();
  });
}

// 6.18, cuStreamGetId: one of its own for each stream of the process.
CUresult CUDAAPI cuStreamGetId(CUstream handle, unsigned long long* id) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(id != nullptr);
    *id = c.context().stream(handle)->id();
  });
}

// 6.18, cuStreamIsCapturing: there are no graphs here.
CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(status != nullptr);
    c.context().stream(handle);
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
  });
}

// 6.22, cuLaunchHostFunc: the function may not call CUDA, and isn't called if the context is broken.
CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(function != nullptr);
    Work work;
    work.run = [function, data] {
      function(data);
      return CUDA_SUCCESS;
    };
    c.context().stream(handle)->enqueue(std::move(work));
  });
}

// 6.20, cuStreamWaitValue32: the stream waits until a number in memory has a value. Here only for memory of the host,
// and only with CU_STREAM_WAIT_VALUE_EQ.
CUresult CUDAAPI cuStreamWaitValue32(CUstream handle, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(flags == CU_STREAM_WAIT_VALUE_EQ && address % sizeof value == 0);
    auto* const number = reinterpret_cast<cuuint32_t*>(address);
    require_value(driver().addresses.find_host(number) != nullptr);
    Work work;
    work.run = [number, value] {
      while (std::atomic_ref(*number).load() != value && muster_fake_gpu_must_end() == 0) std::this_thread::yield();
      return CUDA_SUCCESS;
    };
    c.context().stream(handle)->enqueue(std::move(work));
  });
}

}  // extern "C"
