#include "folder.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <utility>

#include "process.hpp"

namespace fake_gpu {

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int Fd::release() noexcept { return std::exchange(fd_, -1); }

void Fd::reset() noexcept {
  if (fd_ >= 0) ::close(release());
}

const std::filesystem::path& folder() {
  static const auto& path = *new std::filesystem::path([] {
    const char* named = std::getenv("MUSTER_FAKE_GPU_DIR");
    std::filesystem::path made = named != nullptr && *named != '\0'
                                     ? std::filesystem::path(named)
                                     : std::filesystem::path("/tmp/muster-fake-gpu-" + std::to_string(::getuid()));
    for (const char* part : {"memory", "books", "events", "exports"})
      if (std::filesystem::create_directories(made / part))
        std::filesystem::permissions(made / part, std::filesystem::perms::all);
    return made;
  }());
  return path;
}

namespace {

/// A machine has processes of several users.
Fd open_for_all(const std::filesystem::path& path) {
  constexpr mode_t everybody = 0666;
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, everybody));
  if (fd) static_cast<void>(::fchmod(fd.get(), everybody));  // in spite of the umask; only its owner can
  return fd;
}

}  // namespace

FolderLock::FolderLock() : fd_(open_for_all(folder() / "lock")) {
  if (!fd_) throw std::runtime_error("the fake GPU can't open its lock in " + folder().string());
  while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    std::int32_t holder = 0;
    // A real driver's locks are in the kernel, where SIGSTOP stops nobody. So whoever is stopped here has no lock.
    if (::pread(fd_.get(), &holder, sizeof(holder), 0) == sizeof(holder) && is_stopped(holder)) return;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  const auto own = static_cast<std::int32_t>(::getpid());
  if (::pwrite(fd_.get(), &own, sizeof(own), 0) != sizeof(own))
    throw std::runtime_error("the fake GPU can't write to its lock in " + folder().string());
}

void* map_shared(const std::filesystem::path& path, std::size_t bytes) {
  const Fd fd = open_for_all(path);
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    throw std::runtime_error("the fake GPU can't make " + path.string());
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) throw std::runtime_error("the fake GPU can't map " + path.string());
  return memory;
}

}  // namespace fake_gpu
