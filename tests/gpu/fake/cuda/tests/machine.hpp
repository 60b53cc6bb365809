// A fake machine for one test: a folder with settings and injections, processes, and the books at the end.
#pragma once

#include <stdlib.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include <cuda.h>

#include "conformance/peer.hpp"

namespace fake_gpu::testing {

using conformance::Op;
using conformance::Peer;
using conformance::Request;

constexpr std::size_t mebibyte = 1 << 20;

class Machine {
 public:
  explicit Machine(const std::string& settings = "") {
    std::string name = std::filesystem::temp_directory_path() / "fake-gpu-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
    std::ofstream(path_ / "settings") << settings;
    use();
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine() { std::filesystem::remove_all(path_); }

  /// Makes it the machine of processes that are started from now on.
  void use() const { ::setenv("MUSTER_FAKE_GPU_DIR", path_.c_str(), 1); }
  /// Puts the file in its place at once, as a program must that changes it while others read it.
  void inject(const std::string& lines) const {
    std::ofstream(path_ / "inject.new") << lines;
    std::filesystem::rename(path_ / "inject.new", path_ / "inject");
  }
  /// What muster_fake_gpu_books prints.
  [[nodiscard]] std::string books() const {
    std::string text;
    auto* pipe = ::popen(program().c_str(), "r");
    REQUIRE(pipe != nullptr);
    for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += static_cast<char>(c);
    ::pclose(pipe);
    return text;
  }
  [[nodiscard]] bool books_are_empty() const { return std::system((program() + " --empty > /dev/null").c_str()) == 0; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  [[nodiscard]] static std::string program() {
    return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "muster_fake_gpu_books";
  }

  std::filesystem::path path_;
};

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// The part of the books with this name, which is an object.
inline std::string part_of(const std::string& books, const std::string& name) {
  const auto begin = books.find("\"" + name + "\": {");
  REQUIRE(begin != std::string::npos);
  return books.substr(begin, books.find('}', begin) - begin);
}

}  // namespace fake_gpu::testing
