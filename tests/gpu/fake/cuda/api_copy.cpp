// CUDA Driver API, 6.13 Memory Management: copies and fills; and its section "API synchronization behavior".
#include <algorithm>
#include <cstring>
#include <vector>

#include "driver.hpp"

using namespace fake_gpu;

namespace {

/// One end of a copy.
struct End {
  CUdeviceptr address = 0;
  bool device = false;
  bool pinned = false;
  Context* context = nullptr;  // whose rights count; null for that of the stream
};

struct Copy {
  End to;
  End from;
  std::size_t bytes = 0;
};

char* host_pointer(CUdeviceptr address) { return reinterpret_cast<char*>(address); }

/// An address of this process: device memory, or else memory of the host. Device addresses without memory are invalid.
/// 6.13, cuMemcpy: so is memory of the host of which only a part is pinned. Two registrations don't make one.
End any_end(CUdeviceptr address, std::size_t bytes) {
  const auto& space = driver().addresses;
  if (space.mapped(address, bytes)) return {address, true, false, nullptr};
  require_value(address != 0 && space.find(address) == nullptr);
  const bool pinned = space.find_host(host_pointer(address), bytes) != nullptr;
  require_value(pinned || !space.overlaps_host(host_pointer(address), bytes));
  return {address, false, pinned, nullptr};
}

/// A pointer that the device uses: its memory, or pinned memory of the host.
End device_end(CUdeviceptr address, std::size_t bytes) {
  const auto end = any_end(address, bytes);
  require_value(end.device || end.pinned);
  return end;
}

/// A pointer that the host uses.
End host_end(const void* pointer, std::size_t bytes) {
  const auto end = any_end(reinterpret_cast<CUdeviceptr>(pointer), bytes);
  require_value(!end.device);
  return end;
}

/// Returns null without rights.
char* resolve(const End& end, std::size_t bytes, Access access) {
  if (!end.device) return host_pointer(end.address);
  auto& work = *running();
  auto& space = driver().addresses;
  const auto* context = end.context != nullptr ? end.context : work.context;
  char* memory = space.shadow(context, end.address, bytes, access);
  if (memory != nullptr) work.pinned.emplace_back(space.find(end.address));
  return memory;
}

/// Runs on the stream's thread. "Data types used by CUDA driver", CUDA_ERROR_ILLEGAL_ADDRESS.
CUresult run(const Copy& copy) {
  std::unique_lock lock(driver().mutex);
  const char* from = resolve(copy.from, copy.bytes, Access::read);
  char* to = resolve(copy.to, copy.bytes, Access::write);
  lock.unlock();
  if (from != nullptr && to != nullptr) std::memmove(to, from, copy.bytes);
  lock.lock();
  running()->pinned.clear();
  driver().progress.notify_all();
  return from != nullptr && to != nullptr ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}

void wait_for(Call& call, const StreamPoint& point) {
  call.wait([&] { return point.reached(); });
  const auto& context = point.stream->context();
  require(context.broken() == CUDA_SUCCESS, context.broken());
}

StreamPoint enqueue(Stream& stream, const Copy& copy) {
  Work work;
  work.run = [copy] { return run(copy); };
  return stream.enqueue(std::move(work));
}

/// Copies the source's bytes now; the copy to the device comes later.
StreamPoint enqueue_staged(Stream& stream, const Copy& copy) {
  const char* from = host_pointer(copy.from.address);
  const auto staged = std::make_shared<std::vector<char>>(from, from + copy.bytes);
  Work work;
  work.run = [copy, staged] {
    Copy from_staging = copy;
    from_staging.from = {reinterpret_cast<CUdeviceptr>(staged->data()), false, true, nullptr};
    return run(from_staging);
  };
  return stream.enqueue(std::move(work));
}

// "API synchronization behavior", "Memcpy", synchronous: from pageable memory to a device, the stream is synchronized
// and the bytes are staged, and the call may return before they are on the device; from pinned memory, and from a
// device to the host, it returns when they are; from device to device it doesn't wait; from host to host it does.
void copy_now(Call& call, const Copy& copy) {
  if (copy.bytes == 0) return;
  const auto stream = call.context().legacy_stream();
  if (copy.to.device && !copy.from.device && !copy.from.pinned) {
    wait_for(call, stream->enqueue({}));
    enqueue_staged(*stream, copy);
  } else if (copy.to.device && copy.from.device) {
    enqueue(*stream, copy);
  } else {
    wait_for(call, enqueue(*stream, copy));
  }
}

// "API synchronization behavior", "Memcpy", asynchronous: with pageable memory the call may be synchronous or not, so
// no program may rely on either; from host to host it is synchronous; else it never waits.
void copy_later(Call& call, const Copy& copy, CUstream handle) {
  const auto stream = call.context().stream(handle);
  if (copy.bytes == 0) return;
  const bool host_to_host = !copy.to.device && !copy.from.device;
  const bool pageable = (!copy.to.device && !copy.to.pinned) || (!copy.from.device && !copy.from.pinned);
  if (host_to_host) wait_for(call, enqueue(*stream, copy));
  else if (!pageable || driver().settings.late_pageable) enqueue(*stream, copy);
  else if (copy.to.device) enqueue_staged(*stream, copy);
  else wait_for(call, enqueue(*stream, copy));
}

Context& peer_context(CUcontext handle) {
  auto* context = driver().context(handle);
  require(context != nullptr, CUDA_ERROR_INVALID_CONTEXT);
  require(context->active(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  return *context;
}

Copy peer_copy(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, std::size_t bytes) {
  Copy copy{device_end(to, bytes), device_end(from, bytes), bytes};
  copy.to.context = &peer_context(to_context);
  copy.from.context = &peer_context(from_context);
  return copy;
}

template <class T>
CUresult run_fill(const End& end, T value, std::size_t number) {
  std::unique_lock lock(driver().mutex);
  char* memory = resolve(end, number * sizeof(T), Access::write);
  lock.unlock();
  if (memory != nullptr) std::fill_n(reinterpret_cast<T*>(memory), number, value);
  lock.lock();
  running()->pinned.clear();
  driver().progress.notify_all();
  return memory != nullptr ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}

// 6.13, cuMemsetD16, cuMemsetD32: the address must be aligned to the value. "API synchronization behavior", "Memset":
// the call doesn't wait, but for pinned memory of the host.
template <class T>
void fill(Call& call, CUdeviceptr address, T value, std::size_t number, CUstream handle, bool asynchronous) {
  require_value(address % sizeof(T) == 0);
  const auto stream = call.context().stream(handle);
  if (number == 0) return;
  const auto end = device_end(address, number * sizeof(T));
  Work work;
  work.run = [=] { return run_fill<T>(end, value, number); };
  const auto point = stream->enqueue(std::move(work));
  if (!asynchronous && !end.device) wait_for(call, point);
}

}  // namespace

extern "C" {

// 6.13, cuMemcpy: the pointers say what they are (unified addressing).
CUresult CUDAAPI cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_now(c, {any_end(to, bytes), any_end(from, bytes), bytes});
  });
}

// 6.13, cuMemcpyAsync
CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_later(c, {any_end(to, bytes), any_end(from, bytes), bytes}, stream);
  });
}

// 6.13, cuMemcpyHtoD
CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_now(c, {device_end(to, bytes), host_end(from, bytes), bytes});
  });
}

// 6.13, cuMemcpyHtoDAsync
CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_later(c, {device_end(to, bytes), host_end(from, bytes), bytes}, stream);
  });
}

// 6.13, cuMemcpyDtoH
CUresult CUDAAPI cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_now(c, {host_end(to, bytes), device_end(from, bytes), bytes});
  });
}

// 6.13, cuMemcpyDtoHAsync
CUresult CUDAAPI cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_later(c, {host_end(to, bytes), device_end(from, bytes), bytes}, stream);
  });
}

// 6.13, cuMemcpyDtoD
CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_now(c, {device_end(to, bytes), device_end(from, bytes), bytes});
  });
}

// 6.13, cuMemcpyDtoDAsync
CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return call(__func__, Need::context, [&](Call& c) {
    copy_later(c, {device_end(to, bytes), device_end(from, bytes), bytes}, stream);
  });
}

// 6.13, cuMemcpyPeer: each address is of its context; peer access need not be enabled.
CUresult CUDAAPI cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                              size_t bytes) {
  return call(__func__, Need::context,
              [&](Call& c) { copy_now(c, peer_copy(to, to_context, from, from_context, bytes)); });
}

// 6.13, cuMemcpyPeerAsync
CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                                   size_t bytes, CUstream stream) {
  return call(__func__, Need::context,
              [&](Call& c) { copy_later(c, peer_copy(to, to_context, from, from_context, bytes), stream); });
}

// 6.13, cuMemsetD8, cuMemsetD16, cuMemsetD32 and their asynchronous forms: `number` counts values.
CUresult CUDAAPI cuMemsetD8(CUdeviceptr to, unsigned char value, size_t number) {
  return call(__func__, Need::context, [&](Call& c) { fill(c, to, value, number, nullptr, false); });
}

CUresult CUDAAPI cuMemsetD16(CUdeviceptr to, unsigned short value, size_t number) {
  return call(__func__, Need::context, [&](Call& c) { fill(c, to, value, number, nullptr, false); });
}

CUresult CUDAAPI cuMemsetD32(CUdeviceptr to, unsigned int value, size_t number) {
  return call(__func__, Need::context, [&](Call& c) { fill(c, to, value, number, nullptr, false); });
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t number, CUstream stream) {
  return call(__func__, Need::context, [&](Call& c) { fill(c, to, value, number, stream, true); });
}

CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t number, CUstream stream) {
  return call(__func__, Need::context, [&](Call& c) { fill(c, to, value, number, stream, true); });
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t number, CUstream stream) {
  return call(__func__, Need::context, [&](Call& c) { fill(c, to, value, number, stream, true); });
}

}  // extern "C"
