/* What a library of host kernels exports, and what it may call. The fake GPU can't run GPU code: a launch of the kernel
 * NAME runs `muster_host_kernel_NAME` of the library that MUSTER_FAKE_KERNELS names. */
#ifndef MUSTER_FAKE_KERNELS_H
#define MUSTER_FAKE_KERNELS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fake_launch {
  unsigned grid[3];  /* blocks */
  unsigned block[3]; /* threads in a block */
  size_t shared_bytes;
  int device; /* ordinal in this process */
} fake_launch;

/* Runs the whole launch: every block, every thread, once, on the thread of its stream. `parameters` are as in
 * cuLaunchKernel: a pointer to each argument. */
typedef void (*muster_host_kernel)(const fake_launch* launch, void** parameters);

/* The library says so how many bytes each argument of the kernel has, in their order; cuLaunchKernel copies the
 * arguments by it. Without it, a launch returns only when the kernel has run, which may never be. */
#ifdef __cplusplus
#define MUSTER_HOST_KERNEL_PARAMETERS(name, ...)                    \
  extern "C" const size_t muster_host_kernel_##name##_parameters[]; \
  const size_t muster_host_kernel_##name##_parameters[] = {__VA_ARGS__, 0}
#else
#define MUSTER_HOST_KERNEL_PARAMETERS(name, ...) \
  const size_t muster_host_kernel_##name##_parameters[] = {__VA_ARGS__, 0}
#endif

/* Returns where these bytes of device memory, or of mapped host memory, lie on the host. Null if the kernel's device
 * may not touch them so; a kernel then returns, and its context is broken with CUDA_ERROR_ILLEGAL_ADDRESS. On a thread
 * that runs no work, the rights of all devices together count. */
void* muster_fake_gpu_host_address(unsigned long long device_address, size_t bytes, int write);

/* Enqueues device work that isn't a kernel, for other fakes (NCCL). It may wait, and may not call CUDA. A result other
 * than 0 is a CUresult that breaks the context. `stream` is a CUstream of the current context. Returns a CUresult. */
typedef int (*muster_fake_gpu_work)(void* argument);
int muster_fake_gpu_enqueue(void* stream, muster_fake_gpu_work work, void* argument);

/* Returns whether the work that runs on this thread has to give up, because its context is broken or ends. */
int muster_fake_gpu_must_end(void);

/* What the file `inject` says of a call of another fake, about a device (its ordinal; -1 for none): see injection.hpp.
 * Hangs as long as a line says so. Returns a CUresult. */
typedef struct fake_injected {
  int code;       /* CUresult */
  int nccl_code;  /* ncclResult_t */
  int nccl_later; /* ncclResult_t */
  unsigned long long stalled_by;
} fake_injected;
int muster_fake_gpu_injected(const char* call, int device, fake_injected* injected);
/* Whether the file is still the one that said `stalled_by`. */
int muster_fake_gpu_stalls(unsigned long long stalled_by);

/* Changes a line of the books of this process. `item` is its name in their JSON. */
void muster_fake_gpu_count(int device, const char* item, long long change);

/* Writes a setting that is another fake's. Returns a CUresult. */
int muster_fake_gpu_setting(const char* name, char* text, size_t bytes);

/* Writes the books of all processes as JSON (see tests/gpu/README.md), with a zero at the end if there is room. Returns
 * the length that it needs. */
size_t muster_fake_gpu_books(char* text, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
