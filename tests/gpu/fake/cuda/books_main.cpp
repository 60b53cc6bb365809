// Prints the books of the fake GPUs in MUSTER_FAKE_GPU_DIR as JSON. With --empty it fails if anything is left.
#include <cstdio>
#include <cstring>

#include "books.hpp"

int main(int count, char** arguments) {
  std::puts(fake_gpu::books_as_json().c_str());
  const bool must_be_empty = count > 1 && std::strcmp(arguments[1], "--empty") == 0;
  return must_be_empty && !fake_gpu::books_are_empty() ? 1 : 0;
}
