// Calls a function on this thread while another thread has Python's GIL and keeps it until the call has returned, as a
// thread does that waits for a lock of PyTorch's. Python itself can't do that: it lets go of the GIL while it waits.
#include <semaphore>
#include <thread>

namespace {

using Ensure = int (*)();
using Release = void (*)(int);
using Allocate = void* (*)(long size, int device, void* stream);

}  // namespace

extern "C" void* allocate_beside_gil_holder(Ensure ensure, Release release, Allocate allocate, long size) {
  std::binary_semaphore has_gil(0);
  std::binary_semaphore is_over(0);
  std::thread holder([&] {
    const int state = ensure();
    has_gil.release();
    is_over.acquire();
    release(state);
  });
  has_gil.acquire();
  void* const address = allocate(size, 0, nullptr);
  is_over.release();
  holder.join();
  return address;
}
