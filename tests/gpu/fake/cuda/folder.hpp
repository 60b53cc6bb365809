// The folder in which all processes of one fake machine meet: MUSTER_FAKE_GPU_DIR.
#pragma once

#include <filesystem>
#include <string>

namespace fake_gpu {

/// A descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }
  [[nodiscard]] int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept;
  void reset() noexcept;

 private:
  int fd_ = -1;
};

/// Holds the lock of the folder: one process at a time decides who gets memory.
class FolderLock {
 public:
  FolderLock();

 private:
  Fd fd_;
};

/// Returns the folder, and makes it with its parts if it isn't there.
const std::filesystem::path& folder();

/// Maps a file of the folder for all processes. A new file is zeros.
void* map_shared(const std::filesystem::path& path, std::size_t bytes);

}  // namespace fake_gpu
