// Loads and stores: 16 bytes where an address allows it, else an element, else a byte at a time.
#pragma once

#include "daemon/gpu/kernels/arguments.hpp"
#include "daemon/gpu/kernels/numbers.cuh"

namespace musterd::gpu::kernels {

/// What one load instruction fetches at most.
struct alignas(16) Vector {
  std::uint32_t words[4];
};
inline constexpr std::uint32_t vector_bytes = sizeof(Vector);

template <std::uint32_t bytes>
struct WordOf;
template <>
struct WordOf<1> {
  using Type = std::uint8_t;
};
template <>
struct WordOf<2> {
  using Type = std::uint16_t;
};
template <>
struct WordOf<4> {
  using Type = std::uint32_t;
};
template <>
struct WordOf<8> {
  using Type = std::uint64_t;
};
template <>
struct WordOf<16> {
  using Type = Vector;
};

// Written as instructions, as the compiler can't know of a number that it is an address in global memory. They are
// volatile, loads too: else the compiler may do one before it has asked whether there is anything at that address.
#ifdef __CUDA_ARCH__
#define MUSTERD_GPU_WORD(Type, suffix, constraint)                                          \
  __device__ __forceinline__ void load_word(Address from, Type& to) {                       \
    asm volatile("ld.global." suffix " %0, [%1];" : "=" constraint(to) : "l"(from));        \
  }                                                                                         \
  __device__ __forceinline__ void store_word(Address to, Type value) {                      \
    asm volatile("st.global." suffix " [%0], %1;" ::"l"(to), constraint(value) : "memory"); \
  }
MUSTERD_GPU_WORD(std::uint16_t, "u16", "h")
MUSTERD_GPU_WORD(std::uint32_t, "u32", "r")
MUSTERD_GPU_WORD(std::uint64_t, "u64", "l")
#undef MUSTERD_GPU_WORD
__device__ __forceinline__ void load_word(Address from, std::uint8_t& to) {  // no register is that small
  std::uint16_t wide;
  asm volatile("ld.global.u8 %0, [%1];" : "=h"(wide) : "l"(from));
  to = static_cast<std::uint8_t>(wide);
}
__device__ __forceinline__ void store_word(Address to, std::uint8_t value) {
  asm volatile("st.global.u8 [%0], %1;" ::"l"(to), "h"(static_cast<std::uint16_t>(value)) : "memory");
}
__device__ __forceinline__ void load_word(Address from, Vector& to) {
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to.words[0]), "=r"(to.words[1]), "=r"(to.words[2]), "=r"(to.words[3])
               : "l"(from));
}
__device__ __forceinline__ void store_word(Address to, Vector value) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value.words[0]), "r"(value.words[1]),
               "r"(value.words[2]), "r"(value.words[3])
               : "memory");
}
#else
/// GPUs fault on an address that isn't aligned to what is loaded, so the host must not be more lenient.
MUSTERD_GPU_CODE void require_aligned(Address address, std::size_t bytes) {
  if (address % bytes != 0) __builtin_trap();
}
template <class Word>
MUSTERD_GPU_CODE void load_word(Address from, Word& to) {
  require_aligned(from, sizeof to);
  memcpy(&to, reinterpret_cast<const void*>(from), sizeof to);
}
template <class Word>
MUSTERD_GPU_CODE void store_word(Address to, Word value) {
  require_aligned(to, sizeof value);
  memcpy(reinterpret_cast<void*>(to), &value, sizeof value);
}
#endif

template <class T>
MUSTERD_GPU_CODE T load_aligned(Address from) {
  typename WordOf<sizeof(T)>::Type word;
  load_word(from, word);
  return same_bits<T>(word);
}
template <class T>
MUSTERD_GPU_CODE void store_aligned(Address to, T value) {
  store_word(to, same_bits<typename WordOf<sizeof(T)>::Type>(value));
}

/// One element at any address. All threads of a launch take the same way.
template <class T>
MUSTERD_GPU_CODE T load_element(Address from) {
  if (from % sizeof(T) == 0) return load_aligned<T>(from);
  std::uint8_t bytes[sizeof(T)];
  MUSTERD_GPU_UNROLL
  for (std::uint32_t i = 0; i < sizeof(T); ++i) bytes[i] = load_aligned<std::uint8_t>(from + i);
  T value;
  memcpy(&value, bytes, sizeof value);
  return value;
}
template <class T>
MUSTERD_GPU_CODE void store_element(Address to, T value) {
  if (to % sizeof(T) == 0) return store_aligned(to, value);
  std::uint8_t bytes[sizeof(T)];
  memcpy(bytes, &value, sizeof value);
  MUSTERD_GPU_UNROLL
  for (std::uint32_t i = 0; i < sizeof(T); ++i) store_aligned(to + i, bytes[i]);
}

/// The elements of one vector of input, folded or finished.
template <class T, std::uint32_t size>
struct Row {
  T items[size];
};

/// Cuts a vector into elements.
template <class T>
MUSTERD_GPU_CODE Row<T, vector_bytes / sizeof(T)> elements_of(Vector vector) {
  return same_bits<Row<T, vector_bytes / sizeof(T)>>(vector);
}

/// Stores a row in pieces of 16 bytes, or in one that is smaller. `to` must be aligned to that.
template <class T, std::uint32_t size>
MUSTERD_GPU_CODE void store_row(Address to, const Row<T, size>& row) {
  constexpr std::uint32_t bytes = size * sizeof(T);
  if constexpr (bytes >= vector_bytes) {
    struct Vectors {
      Vector items[bytes / vector_bytes];
    };
    const auto vectors = same_bits<Vectors>(row);
    MUSTERD_GPU_UNROLL
    for (std::uint32_t i = 0; i < bytes / vector_bytes; ++i) store_aligned(to + i * vector_bytes, vectors.items[i]);
  } else {
    store_aligned(to, row);
  }
}

}  // namespace musterd::gpu::kernels
