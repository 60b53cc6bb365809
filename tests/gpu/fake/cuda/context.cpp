#include "context.hpp"

#include <algorithm>

#include "driver.hpp"

namespace fake_gpu {

std::vector<Context*>& current_contexts() {
  thread_local std::vector<Context*> stack;
  return stack;
}

void Context::break_with(CUresult code) {
  if (broken_ == CUDA_SUCCESS) broken_ = code;
  driver().progress.notify_all();
}

std::shared_ptr<Stream> Context::create_stream(unsigned flags, int priority) {
  auto stream = std::make_shared<Stream>(*this, flags, priority);
  streams_[stream.get()] = stream;
  return stream;
}

std::shared_ptr<Stream> Context::legacy_stream() {
  if (!legacy_) legacy_ = create_stream(CU_STREAM_DEFAULT, 0);
  return legacy_;
}

// "CUDA Driver API, Stream synchronization behavior": a null stream is the legacy stream, for code that isn't compiled
// with CUDA_API_PER_THREAD_DEFAULT_STREAM; CU_STREAM_PER_THREAD is a stream of the thread.
std::shared_ptr<Stream> Context::stream(CUstream handle) {
  if (handle == nullptr || handle == CU_STREAM_LEGACY) return legacy_stream();
  if (handle == CU_STREAM_PER_THREAD) {
    auto& stream = per_thread_[std::this_thread::get_id()];
    if (!stream) stream = create_stream(CU_STREAM_DEFAULT, 0);
    return stream;
  }
  auto* wanted = reinterpret_cast<Stream*>(handle);
  if (wanted == legacy_.get()) throw Failure{CUDA_ERROR_INVALID_HANDLE};
  for (auto* context : driver().contexts()) {
    const auto found = context->streams_.find(wanted);
    if (found != context->streams_.end() && !wanted->closed()) return found->second;
  }
  throw Failure{CUDA_ERROR_INVALID_HANDLE};
}

std::vector<std::shared_ptr<Stream>> Context::all_streams() const {
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& [raw, stream] : streams_) streams.push_back(stream);
  return streams;
}

void Context::activate() {
  active_ = true;
  ending_ = false;
  broken_ = CUDA_SUCCESS;
  count(driver().physical(ordinal_), Item::contexts, 1);
}

// "CUDA Driver API, 6.8 Context Management, cuCtxDestroy": the context's streams, events, modules, and memory by
// cuMemAlloc and cuMemHostAlloc end with it; memory by cuMemCreate and cuMemAllocAsync doesn't.
void Context::end(std::unique_lock<std::mutex>& lock) {
  ending_ = true;
  driver().progress.notify_all();
  driver().progress.wait(lock, [&] {
    return std::all_of(streams_.begin(), streams_.end(), [](const auto& entry) { return entry.second->idle(); });
  });
  end_objects();
  end_memory(lock);
  peers_.clear();
  active_ = false;
  retained = 0;
  count(driver().physical(ordinal_), Item::contexts, -1);
}

void Context::end_objects() {
  const int physical = driver().physical(ordinal_);
  for (const auto& stream : all_streams()) {
    const bool counted = stream != legacy_ && std::none_of(per_thread_.begin(), per_thread_.end(),
                                                           [&](const auto& e) { return e.second == stream; });
    if (counted && !stream->closed()) count(physical, Item::streams, -1);
    stream->close();
  }
  legacy_.reset();
  per_thread_.clear();
  std::erase_if(driver().events, [&](const auto& entry) {
    if (entry.second->context != this) return false;
    destroy_event(*entry.second);
    return true;
  });
  std::erase_if(driver().modules, [&](const auto& entry) {
    if (entry.second->context != this) return false;
    count(physical, Item::modules, -1);
    return true;
  });
}

void Context::end_memory(std::unique_lock<std::mutex>& lock) {
  auto& space = driver().addresses;
  std::vector<std::shared_ptr<Range>> owned;
  for (const auto& [base, range] : space.ranges())
    if (range->owner == this && range->kind != Range::Kind::pool) owned.push_back(range);
  for (const auto& range : owned) {
    driver().progress.wait(lock, [&] { return range->pins == 0; });
    forget_range(range);
  }
  std::vector<HostRange> host;
  for (const auto& [base, range] : space.host_ranges())
    if (range.owner == this) host.push_back(range);
  for (const auto& range : host) forget_host_range(range);
}

}  // namespace fake_gpu
