// A reference to something that can be called.
#include <catch2/catch.hpp>

#include "base/function_ref.hpp"

using musterd::FunctionRef;

namespace {

void call_twice(FunctionRef function) {
  function();
  function();
}

}  // namespace

TEST_CASE("a function_ref calls the function itself, not a copy") {
  int calls = 0;
  call_twice([&] { ++calls; });
  CHECK(calls == 2);
  const auto constant = [&] { ++calls; };
  call_twice(constant);
  CHECK(calls == 4);
  struct Counter {
    int count = 0;
    void operator()() { ++count; }
  } counter;
  call_twice(counter);
  CHECK(counter.count == 2);
}
