// The driver as a program finds it: libcuda.so.1 by the loader, whether it is the real one or the fake one.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include <cuda.h>

namespace conformance {

inline void* driver_library() {
  static void* library = ::dlopen("libcuda.so.1", RTLD_NOW);
  return library;
}

template <class Function>
Function driver_function(const char* symbol) {
  auto* function = driver_library() == nullptr ? nullptr : ::dlsym(driver_library(), symbol);
  if (function == nullptr) throw std::runtime_error(std::string("libcuda.so.1 has no ") + symbol);
  return reinterpret_cast<Function>(function);
}

}  // namespace conformance

#define CONFORMANCE_TEXT(name) #name
#define CONFORMANCE_SYMBOL(name) CONFORMANCE_TEXT(name)
/// The function of this name, in the version that cuda.h gives it.
#define CU(name) (conformance::driver_function<decltype(&name)>(CONFORMANCE_SYMBOL(name)))
