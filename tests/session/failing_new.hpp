// Replaces operator new of the executable that includes this, which has to define allocate() and given_back(). Include
// it in one file only.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace musterd::testing {

/// Returns memory of malloc(), or throws std::bad_alloc where the test wants no memory to be left.
void* allocate(std::size_t bytes);
/// The memory is freed next.
void given_back(void* memory) noexcept;

}  // namespace musterd::testing

void* operator new(std::size_t bytes) { return musterd::testing::allocate(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return musterd::testing::allocate(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
// Not inlined, as compilers would warn of a mismatch.
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  if (memory != nullptr) musterd::testing::given_back(memory);
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
