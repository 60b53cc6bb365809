// What the processes that live have on the fake machine together: see "Books" in tests/gpu/README.md.
#pragma once

#include <array>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include <catch2/catch.hpp>

namespace musterd::testing {

inline int live(const std::string& item) {
  std::string text;
  std::FILE* const books = ::popen(GPU_BOOKS, "r");
  REQUIRE(books);
  for (std::array<char, 4096> part{}; std::fgets(part.data(), part.size(), books);) text += part.data();
  ::pclose(books);
  const std::string name = "\"" + item + "\": ";
  const auto at = text.find(name, text.find("\"live\""));
  REQUIRE(at != std::string::npos);
  return std::stoi(text.substr(at + name.size()));
}

/// Waits until there are so many. What is given back may take a moment.
inline void expect_live(const std::string& item, int expected) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (live(item) != expected && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  INFO(item);
  CHECK(live(item) == expected);
}

}  // namespace musterd::testing
