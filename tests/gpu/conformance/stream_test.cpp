// CUDA Driver API, 6.18 Stream Management, 6.19 Event Management, "Stream synchronization behavior".
#include <memory>
#include <mutex>
#include <thread>

#include "gpu.hpp"

using namespace conformance;

namespace {

/// Host functions append to a list, in the order in which they run.
struct Order {
  std::mutex mutex;
  std::vector<int> values;
  struct Step {
    Order* order;
    int value;
  };
  std::vector<std::unique_ptr<Step>> steps;

  void add(CUstream stream, int value) {
    steps.push_back(std::make_unique<Step>(Step{this, value}));
    REQUIRE_CU(CU(cuLaunchHostFunc)(stream, &Order::run, steps.back().get()));
  }
  static void CUDA_CB run(void* argument) {
    const auto& step = *static_cast<Step*>(argument);
    const std::scoped_lock lock(step.order->mutex);
    step.order->values.push_back(step.value);
  }
};

}  // namespace

TEST_CASE("a stream runs its work in order") {
  const PrimaryContext context;
  Order order;
  const Stream stream;
  for (int value = 0; value < 50; ++value) order.add(stream.get(), value);
  REQUIRE_CU(CU(cuStreamSynchronize)(stream.get()));
  std::vector<int> expected(50);
  for (int value = 0; value < 50; ++value) expected[static_cast<std::size_t>(value)] = value;
  CHECK(order.values == expected);
}

TEST_CASE("streams don't wait for each other") {
  const PrimaryContext context;
  const Stream one, two;
  Gate gate;
  Order order;
  gate.close(one.get());
  order.add(two.get(), 1);
  REQUIRE_CU(CU(cuStreamSynchronize)(two.get()));
  CHECK(order.values == std::vector{1});
  CHECK(CU(cuStreamQuery)(two.get()) == CUDA_SUCCESS);
  CHECK(CU(cuStreamQuery)(one.get()) == CUDA_ERROR_NOT_READY);
}

TEST_CASE("the legacy stream waits for blocking streams, and they wait for it") {
  const PrimaryContext context;
  const Stream one(CU_STREAM_DEFAULT), two(CU_STREAM_DEFAULT), apart(CU_STREAM_NON_BLOCKING);
  Gate gate;
  Order order;
  gate.close(one.get());
  order.add(nullptr, 1);
  order.add(two.get(), 2);
  order.add(apart.get(), 0);
  REQUIRE_CU(CU(cuStreamSynchronize)(apart.get()));
  CHECK(order.values == std::vector{0});
  CHECK(CU(cuStreamQuery)(nullptr) == CUDA_ERROR_NOT_READY);
  CHECK(CU(cuStreamQuery)(two.get()) == CUDA_ERROR_NOT_READY);
  gate.open();
  REQUIRE_CU(CU(cuCtxSynchronize)());
  CHECK(order.values == std::vector{0, 1, 2});
}

TEST_CASE("the handles of the default streams mean what they say") {
  const PrimaryContext context;
  Gate gate;
  Order order;
  gate.close(CU_STREAM_LEGACY);
  order.add(CU_STREAM_PER_THREAD, 1);
  CHECK(CU(cuStreamQuery)(CU_STREAM_PER_THREAD) == CUDA_ERROR_NOT_READY);
  CHECK(CU(cuStreamQuery)(nullptr) == CUDA_ERROR_NOT_READY);
  gate.open();
  REQUIRE_CU(CU(cuStreamSynchronize)(CU_STREAM_PER_THREAD));
  CHECK(order.values == std::vector{1});
  CHECK(CU(cuStreamDestroy)(nullptr) == CUDA_ERROR_INVALID_HANDLE);
}

TEST_CASE("each thread has a default stream of its own") {
  const PrimaryContext context;
  Gate gate;
  gate.close(CU_STREAM_PER_THREAD);
  std::thread([&] {
    CHECK(CU(cuCtxSetCurrent)(context.get()) == CUDA_SUCCESS);
    CHECK(CU(cuStreamQuery)(CU_STREAM_PER_THREAD) == CUDA_SUCCESS);
  }).join();
}

TEST_CASE("a destroyed stream finishes its work") {
  const PrimaryContext context;
  const Event event;
  const Stream gated;
  Gate gate;
  Order order;
  {
    const Stream stream;
    gate.close(gated.get());
    REQUIRE_CU(CU(cuEventRecord)(event.get(), gated.get()));
    REQUIRE_CU(CU(cuStreamWaitEvent)(stream.get(), event.get(), 0));
    order.add(stream.get(), 1);
  }
  gate.open();
  REQUIRE_CU(CU(cuCtxSynchronize)());
  CHECK(order.values == std::vector{1});
}

TEST_CASE("streams tell their flags, priority and context") {
  const PrimaryContext context;
  const Stream stream;
  unsigned flags = 99;
  CUcontext of_stream = nullptr;
  REQUIRE_CU(CU(cuStreamGetFlags)(stream.get(), &flags));
  CHECK(flags == CU_STREAM_NON_BLOCKING);
  REQUIRE_CU(CU(cuStreamGetCtx)(stream.get(), &of_stream));
  CHECK(of_stream == context.get());
  REQUIRE_CU(CU(cuStreamGetCtx)(nullptr, &of_stream));
  CHECK(of_stream == context.get());
  int least = 1, greatest = 1, priority = 1;
  REQUIRE_CU(CU(cuCtxGetStreamPriorityRange)(&least, &greatest));
  CHECK(greatest <= least);
  CUstream urgent = nullptr;
  REQUIRE_CU(CU(cuStreamCreateWithPriority)(&urgent, CU_STREAM_NON_BLOCKING, greatest - 100));
  REQUIRE_CU(CU(cuStreamGetPriority)(urgent, &priority));
  CHECK(priority == greatest);
  REQUIRE_CU(CU(cuStreamDestroy)(urgent));
  CHECK(CU(cuStreamCreate)(&urgent, 0x80) == CUDA_ERROR_INVALID_VALUE);
}

TEST_CASE("an event is complete when the work before it is") {
  const PrimaryContext context;
  const Stream stream;
  const Event event;
  CHECK(CU(cuEventQuery)(event.get()) == CUDA_SUCCESS);
  Gate gate;
  gate.close(stream.get());
  REQUIRE_CU(CU(cuEventRecord)(event.get(), stream.get()));
  CHECK(CU(cuEventQuery)(event.get()) == CUDA_ERROR_NOT_READY);
  gate.open();
  CHECK(CU(cuEventSynchronize)(event.get()) == CUDA_SUCCESS);
  CHECK(CU(cuEventQuery)(event.get()) == CUDA_SUCCESS);
}

TEST_CASE("a stream waits for the recording that was the last one at the call") {
  const PrimaryContext context;
  const Stream one, two, waiting, other;
  const Event event;
  Gate first, second;
  Order order;
  REQUIRE_CU(CU(cuStreamWaitEvent)(waiting.get(), event.get(), 0));  // never recorded: nothing to wait for
  REQUIRE_CU(CU(cuStreamSynchronize)(waiting.get()));
  first.close(one.get());
  order.add(one.get(), 1);
  REQUIRE_CU(CU(cuEventRecord)(event.get(), one.get()));
  REQUIRE_CU(CU(cuStreamWaitEvent)(waiting.get(), event.get(), 0));
  order.add(waiting.get(), 2);
  second.close(two.get());
  REQUIRE_CU(CU(cuEventRecord)(event.get(), two.get()));
  order.add(other.get(), 0);
  REQUIRE_CU(CU(cuStreamSynchronize)(other.get()));
  CHECK(CU(cuStreamQuery)(waiting.get()) == CUDA_ERROR_NOT_READY);
  first.open();
  REQUIRE_CU(CU(cuStreamSynchronize)(waiting.get()));
  CHECK(order.values == std::vector{0, 1, 2});
  CHECK(CU(cuEventQuery)(event.get()) == CUDA_ERROR_NOT_READY);
}

TEST_CASE("flags and handles of events are checked") {
  const PrimaryContext context;
  CUevent event = nullptr;
  CHECK(CU(cuEventCreate)(&event, CU_EVENT_INTERPROCESS) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuEventCreate)(&event, 0x100) == CUDA_ERROR_INVALID_VALUE);
  const Event own;
  CHECK(CU(cuStreamWaitEvent)(nullptr, own.get(), 0x10) == CUDA_ERROR_INVALID_VALUE);
  CHECK(CU(cuEventRecord)(nullptr, nullptr) == CUDA_ERROR_INVALID_HANDLE);
}

TEST_CASE("an event and the stream that records it are of one context") {
  const PrimaryContext context;
  const Event event;
  CUcontext other = nullptr;
  REQUIRE_CU(CU(cuCtxCreate)(&other, nullptr, 0, 0));
  const auto code = CU(cuEventRecord)(event.get(), nullptr);
  REQUIRE_CU(CU(cuCtxDestroy)(other));
  CHECK(code == CUDA_ERROR_INVALID_HANDLE);
}

TEST_CASE("only events that time tell the time between them, when both are complete") {
  const PrimaryContext context;
  const Stream stream;
  const Event start(0), end(0), without;
  float milliseconds = -1;
  CHECK(CU(cuEventElapsedTime)(&milliseconds, start.get(), end.get()) == CUDA_ERROR_INVALID_HANDLE);
  Gate gate;
  REQUIRE_CU(CU(cuEventRecord)(start.get(), stream.get()));
  gate.close(stream.get());
  REQUIRE_CU(CU(cuEventRecord)(end.get(), stream.get()));
  REQUIRE_CU(CU(cuEventRecord)(without.get(), stream.get()));
  CHECK(CU(cuEventElapsedTime)(&milliseconds, start.get(), end.get()) == CUDA_ERROR_NOT_READY);
  gate.open();
  REQUIRE_CU(CU(cuEventElapsedTime)(&milliseconds, start.get(), end.get()));
  CHECK(milliseconds >= 0);
  CHECK(CU(cuEventElapsedTime)(&milliseconds, start.get(), without.get()) == CUDA_ERROR_INVALID_HANDLE);
}

TEST_CASE("a host function that calls CUDA may be refused, and changes nothing") {
  const PrimaryContext context;
  const Stream stream;
  CUresult code = CUDA_SUCCESS;
  REQUIRE_CU(CU(cuLaunchHostFunc)(
      stream.get(),
      [](void* result) {
        CUdeviceptr address = 0;
        *static_cast<CUresult*>(result) = CU(cuMemAlloc)(&address, 1);
      },
      &code));
  REQUIRE_CU(CU(cuStreamSynchronize)(stream.get()));
  if (code == CUDA_SUCCESS) WARN("this driver lets host functions call CUDA");
  CHECK((code == CUDA_SUCCESS || code == CUDA_ERROR_NOT_PERMITTED));
}
