// What the fake driver and the fake NCCL are told to do wrong, until this is gone. On real hardware leave the tests
// with it out: ~[fake].
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace musterd::testing {

class Injection {
 public:
  explicit Injection(const std::string& lines) : path_(folder() + "/inject") {
    std::ofstream(path_ + ".new") << lines << std::endl;
    std::filesystem::rename(path_ + ".new", path_);
  }
  ~Injection() { std::filesystem::remove(path_); }
  Injection(const Injection&) = delete;
  Injection& operator=(const Injection&) = delete;

 private:
  static std::string folder() {
    const char* const named = std::getenv("MUSTER_FAKE_GPU_DIR");
    if (!named) throw std::runtime_error("a real driver fails at nobody's wish: leave these tests out, ~[fake]");
    return named;
  }
  std::string path_;
};

}  // namespace musterd::testing
