// CUDA Driver API, 6.19 Event Management.
#include "driver.hpp"

using namespace fake_gpu;

namespace {

constexpr unsigned event_flags = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;

std::shared_ptr<Event> known(CUevent handle) {
  const auto found = driver().events.find(reinterpret_cast<Event*>(handle));
  require(found != driver().events.end(), CUDA_ERROR_INVALID_HANDLE);
  // The manual leaves it undefined to use an imported event whose maker has destroyed it.
  require(!found->second->imported || found->second->state->destroyed == 0, CUDA_ERROR_INVALID_HANDLE);
  return found->second;
}

CUresult elapsed(const char* name, float* milliseconds, CUevent start, CUevent end) {
  return call(name, Need::context, [&](Call&) {
    require_value(milliseconds != nullptr);
    const auto first = known(start);
    const auto last = known(end);
    for (const auto& event : {first, last}) {
      require((event->flags & CU_EVENT_DISABLE_TIMING) == 0, CUDA_ERROR_INVALID_HANDLE);
      require(event->state->recorded != 0, CUDA_ERROR_INVALID_HANDLE);
      require(event->complete(), CUDA_ERROR_NOT_READY);
    }
    *milliseconds = std::chrono::duration<float, std::milli>(last->when - first->when).count();
  });
}

CUresult record(const char* name, CUevent handle, CUstream stream_handle) {
  return call(name, Need::context, [&](Call& c) {
    const auto event = known(handle);
    const auto stream = c.context().stream(stream_handle);
    require(event->context == &stream->context(), CUDA_ERROR_INVALID_HANDLE);
    const auto recording = ++event->state->recorded;
    Work work;
    work.after = [event, recording] {
      event->when = std::chrono::steady_clock::now();
      auto completed = event->state->completed.load();
      while (completed < recording && !event->state->completed.compare_exchange_weak(completed, recording)) {
      }
    };
    stream->enqueue(std::move(work));
  });
}

}  // namespace

extern "C" {

// 6.19, cuEventCreate: CU_EVENT_INTERPROCESS only together with CU_EVENT_DISABLE_TIMING.
CUresult CUDAAPI cuEventCreate(CUevent* handle, unsigned int flags) {
  return call(__func__, Need::context, [&](Call& c) {
    require_value(handle != nullptr && (flags & ~event_flags) == 0);
    const bool shared = (flags & CU_EVENT_INTERPROCESS) != 0;
    require_value(!shared || (flags & CU_EVENT_DISABLE_TIMING) != 0);
    auto event = std::make_shared<Event>();
    event->context = &c.context();
    event->flags = flags;
    event->number = driver().addresses.next_number();
    if (shared) {
      event->path = event_path(this_process(), event->number);
      event->state = shared_event_state(event->path, true);
    } else {
      event->state = std::make_shared<EventState>();
    }
    count(driver().physical(c.context().ordinal()), Item::events, 1);
    *handle = reinterpret_cast<CUevent>(event.get());
    driver().events[event.get()] = event;
  });
}

// 6.19, cuEventDestroy: also before it is complete; what waits for it goes on waiting for the work.
CUresult CUDAAPI cuEventDestroy(CUevent handle) {
  return call(__func__, Need::context, [&](Call&) {
    const auto found = driver().events.find(reinterpret_cast<Event*>(handle));
    require(found != driver().events.end(), CUDA_ERROR_INVALID_HANDLE);
    destroy_event(*found->second);
    driver().events.erase(found);
  });
}

// 6.19, cuEventRecord: event and stream must be of one context, else CUDA_ERROR_INVALID_HANDLE.
CUresult CUDAAPI cuEventRecord(CUevent handle, CUstream stream) { return record(__func__, handle, stream); }

// 6.19, cuEventRecordWithFlags: CU_EVENT_RECORD_EXTERNAL is for captures only.
CUresult CUDAAPI cuEventRecordWithFlags(CUevent handle, CUstream stream, unsigned int flags) {
  if (flags != CU_EVENT_RECORD_DEFAULT) return CUDA_ERROR_INVALID_VALUE;
  return record(__func__, handle, stream);
}

// 6.19, cuEventQuery: success for an event that was never recorded.
CUresult CUDAAPI cuEventQuery(CUevent handle) {
  return call(__func__, Need::context, [&](Call&) { require(known(handle)->complete(), CUDA_ERROR_NOT_READY); });
}

// 6.19, cuEventSynchronize: waits for the recording that is the last one now.
CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
  return call(__func__, Need::context, [&](Call& c) {
    const auto event = known(handle);
    const auto recording = event->state->recorded.load();
    // What another process has to do doesn't notify us.
    while (!event->complete(recording) && c.context().broken() == CUDA_SUCCESS)
      driver().progress.wait_for(c.lock, std::chrono::milliseconds(event->path.empty() ? 100 : 1));
    require(c.context().broken() == CUDA_SUCCESS, c.context().broken());
  });
}

// 6.19, cuEventElapsedTime: both events must time, be recorded, and be complete.
CUresult CUDAAPI cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return elapsed(__func__, milliseconds, start, end);
}

#undef cuEventElapsedTime
CUresult CUDAAPI cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return elapsed(__func__, milliseconds, start, end);
}

}  // extern "C"
