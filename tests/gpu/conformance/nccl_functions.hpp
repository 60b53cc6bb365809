// NCCL as a program finds it: libnccl.so.2 by the loader, whether it is the real one or the fake one.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "cuda_api.hpp"
#include "nccl_api.hpp"

namespace conformance {

inline void* nccl_library() {
  static void* library = ::dlopen("libnccl.so.2", RTLD_NOW);
  return library;
}

template <class Function>
Function nccl_function(const char* symbol) {
  auto* function = nccl_library() == nullptr ? nullptr : ::dlsym(nccl_library(), symbol);
  if (function == nullptr) throw std::runtime_error(std::string("libnccl.so.2 has no ") + symbol);
  return reinterpret_cast<Function>(function);
}

/// NCCL's function of this name.
#define NC(name) (conformance::nccl_function<decltype(&name)>(#name))

inline int nccl_version() {
  int version = 0;
  NC(ncclGetVersion)(&version);
  return version;
}

}  // namespace conformance
