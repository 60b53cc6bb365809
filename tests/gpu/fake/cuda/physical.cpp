#include "physical.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace fake_gpu {
namespace {

std::set<Physical*>& all() {
  static auto& set = *new std::set<Physical*>();
  return set;
}

constexpr const char* name_format = "muster-fake-gpu.%d.%llu.%u.%d";

std::string name_of(const Physical::Properties& properties) {
  std::array<char, 96> name{};
  std::snprintf(name.data(), name.size(), name_format, properties.device,
                static_cast<unsigned long long>(properties.bytes), properties.handle_types, properties.vmm ? 1 : 0);
  return name.data();
}

std::optional<Physical::Properties> properties_of(int fd) {
  std::array<char, 160> target{};
  const auto link = "/proc/self/fd/" + std::to_string(fd);
  if (::readlink(link.c_str(), target.data(), target.size() - 1) < 0) return std::nullopt;
  Physical::Properties properties;
  unsigned long long bytes = 0;
  int vmm = 0;
  const auto format = std::string("/memfd:") + name_format + " ";
  if (std::sscanf(target.data(), format.c_str(), &properties.device, &bytes, &properties.handle_types, &vmm) != 4)
    return std::nullopt;
  properties.bytes = bytes;
  properties.vmm = vmm != 0;
  struct stat status {};
  if (::fstat(fd, &status) != 0 || static_cast<unsigned long long>(status.st_size) != bytes) return std::nullopt;
  return properties;
}

std::uint64_t inode_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

/// One allocation as the folder knows it: an empty file named `<device>.<bytes>.<inode>`.
struct Record {
  int device = 0;
  unsigned long long bytes = 0;
  unsigned long long inode = 0;
  std::filesystem::path path;
};

std::vector<Record> read_records() {
  std::vector<Record> records;
  for (const auto& entry : std::filesystem::directory_iterator(folder() / "memory")) {
    Record record;
    record.path = entry.path();
    if (std::sscanf(record.path.filename().c_str(), "%d.%llu.%llu", &record.device, &record.bytes, &record.inode) == 3)
      records.push_back(record);
  }
  return records;
}

std::filesystem::path record_of(const Physical::Properties& properties, std::uint64_t inode) {
  return folder() / "memory" /
         (std::to_string(properties.device) + "." + std::to_string(properties.bytes) + "." + std::to_string(inode));
}

/// Returns the inodes of all files that are locked by flock, also while they are on their way through a socket.
std::set<unsigned long long> locked_inodes() {
  std::set<unsigned long long> inodes;
  std::ifstream file("/proc/locks");
  for (std::string line; std::getline(file, line);) {
    unsigned long long inode = 0;
    const auto at = line.find("FLOCK");
    if (at != std::string::npos && std::sscanf(line.c_str() + at, "FLOCK %*s %*s %*d %*x:%*x:%llu", &inode) == 1)
      inodes.insert(inode);
  }
  return inodes;
}

void add_descriptors(const std::filesystem::path& process, std::set<unsigned long long>& inodes) {
  DIR* descriptors = ::opendir((process / "fd").c_str());
  if (descriptors == nullptr) return;
  while (const dirent* entry = ::readdir(descriptors)) {
    std::array<char, 160> target{};
    if (::readlinkat(::dirfd(descriptors), entry->d_name, target.data(), target.size() - 1) < 0) continue;
    struct stat status {};
    if (std::strncmp(target.data(), "/memfd:muster-fake-gpu.", 23) == 0 &&
        ::fstatat(::dirfd(descriptors), entry->d_name, &status, 0) == 0)
      inodes.insert(status.st_ino);
  }
  ::closedir(descriptors);
}

void add_mappings(const std::filesystem::path& process, std::set<unsigned long long>& inodes) {
  std::ifstream maps(process / "maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long long inode = 0;
    if (line.find("/memfd:muster-fake-gpu.") != std::string::npos &&
        std::sscanf(line.c_str(), "%*s %*s %*s %*s %llu", &inode) == 1)
      inodes.insert(inode);
  }
}

/// Who made a lock may be dead, and then /proc/locks hides it inside of a container; so all processes are asked.
std::set<unsigned long long> inodes_of_processes() {
  std::set<unsigned long long> inodes;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    if (entry.path().filename().string().find_first_not_of("0123456789") != std::string::npos) continue;
    add_descriptors(entry.path(), inodes);
    add_mappings(entry.path(), inodes);
  }
  return inodes;
}

std::uint64_t recorded_bytes(int device) {
  std::uint64_t bytes = 0;
  for (const auto& record : read_records())
    if (record.device == device) bytes += record.bytes;
  return bytes;
}

bool has_room(int device, std::uint64_t bytes, std::uint64_t device_bytes) {
  if (bytes > device_bytes) return false;
  if (recorded_bytes(device) <= device_bytes - bytes) return true;
  observe_memory();  // forgets what is gone
  return recorded_bytes(device) <= device_bytes - bytes;
}

}  // namespace

Physical::Physical(Fd fd, const Properties& properties, std::uint64_t inode)
    : fd_(std::move(fd)), properties_(properties), inode_(inode) {
  all().insert(this);
}

Physical::~Physical() { all().erase(this); }

void Physical::leave_all() noexcept {
  for (auto* physical : all()) physical->fd_.reset();
}

std::shared_ptr<Physical> Physical::make(const Properties& properties, std::uint64_t device_bytes) {
  const FolderLock lock;
  if (properties.device != host_memory && !has_room(properties.device, properties.bytes, device_bytes)) return nullptr;
  Fd fd(::memfd_create(name_of(properties).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(properties.bytes)) != 0 || ::flock(fd.get(), LOCK_SH) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return nullptr;
  const auto inode = inode_of(fd.get());
  std::ofstream record(record_of(properties, inode));
  return std::shared_ptr<Physical>(new Physical(std::move(fd), properties, inode));
}

std::shared_ptr<Physical> Physical::import(Fd fd) {
  const auto properties = properties_of(fd.get());
  if (!properties) return nullptr;
  const auto inode = inode_of(fd.get());
  if (!std::filesystem::exists(record_of(*properties, inode))) return nullptr;  // it only has such a name
  // Does nothing to a descriptor of the file that has the lock already. One that was opened by its path gets its own.
  ::flock(fd.get(), LOCK_SH);
  return std::shared_ptr<Physical>(new Physical(std::move(fd), *properties, inode));
}

std::map<int, MemoryUse> observe_memory() {
  std::map<int, MemoryUse> use;
  const auto locked = locked_inodes();
  std::optional<std::set<unsigned long long>> held;
  for (const auto& record : read_records()) {
    bool alive = locked.contains(record.inode);
    if (!alive) {
      if (!held) held = inodes_of_processes();
      alive = held->contains(record.inode);
    }
    if (!alive) {
      std::filesystem::remove(record.path);
      continue;
    }
    use[record.device].bytes += record.bytes;
    ++use[record.device].allocations;
  }
  return use;
}

}  // namespace fake_gpu
