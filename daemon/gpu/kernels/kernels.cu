// The entry points of all kernels on the GPU. kernel_list.hpp has their names.
#include "daemon/gpu/kernels/copy.cuh"
#include "daemon/gpu/kernels/kernel_list.hpp"

namespace musterd::gpu::kernels {

__device__ __forceinline__ Index index_of_thread() {
  return {static_cast<std::uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x,
          static_cast<std::uint64_t>(gridDim.x) * blockDim.x};
}

// How many blocks a multiprocessor must have room for: the compiler may use as many registers as that leaves. 4 leave
// 64 registers, enough for the loads of a block of inputs. Rows of 16 elements need more, and so do those of float64 or
// int64 made of smaller elements, and addresses that are not arguments.
template <class F>
constexpr bool widens = sizeof(typename F::Folded) == 8 && sizeof(typename F::In) < 8;
template <class F>
constexpr int blocks_min = widens<F>        ? 2
                           : F::lanes == 16 ? 3
                                            : 4;
template <class F>
constexpr int blocks_min_of_many = 2;

// An argument that is marked so may be indexed without a copy of it in each thread's memory.
#define MUSTERD_GPU_ENTRY(name, Arguments, blocks, ...)                                                              \
  extern "C" __global__ void __launch_bounds__(block_threads, blocks) name(const __grid_constant__ Arguments call) { \
    __VA_ARGS__;                                                                                                     \
  }

#define MUSTERD_GPU_FOLD_ENTRY(name, Arguments, blocks, run, ...) \
  MUSTERD_GPU_ENTRY(name, Arguments, (blocks<__VA_ARGS__>), run<__VA_ARGS__>(call, index_of_thread()))

#define MUSTERD_GPU_FOLD_ENTRIES(name, Op, Out, ...)                                                             \
  MUSTERD_GPU_FOLD_ENTRY(muster_fold_few_##name, FewArguments, blocks_min, fold_few, Fold<__VA_ARGS__, Op, Out>) \
  MUSTERD_GPU_FOLD_ENTRY(muster_fold_many_##name, ManyArguments, blocks_min_of_many, fold_many,                  \
                         Fold<__VA_ARGS__, Op, Out>)                                                             \
  MUSTERD_GPU_FOLD_ENTRY(muster_scan_##name, ManyArguments, blocks_min, scan, Fold<__VA_ARGS__, Op, Out>)
MUSTERD_GPU_FOLDS(MUSTERD_GPU_FOLD_ENTRIES)

#define MUSTERD_GPU_PREMULTIPLY_ENTRY(name, Out, ...)                                              \
  MUSTERD_GPU_FOLD_ENTRY(muster_premultiply_##name, PremultiplyArguments, blocks_min, premultiply, \
                         Fold<__VA_ARGS__, Multiply, Out>)
MUSTERD_GPU_PREMULTIPLIES(MUSTERD_GPU_PREMULTIPLY_ENTRY)

MUSTERD_GPU_ENTRY(muster_copy, CopyArguments, 4, copy(call, {index_of_thread(), blockIdx.y, gridDim.y}))

}  // namespace musterd::gpu::kernels
