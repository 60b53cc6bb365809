#include "books.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>
#include <stdexcept>

#include "folder.hpp"
#include "physical.hpp"

namespace fake_gpu {
namespace {

constexpr std::array<const char*, static_cast<std::size_t>(Item::count)> item_names{
    "contexts",      "allocations",        "handles",    "reservations",     "mappings",           "ipc_imports",
    "events",        "ipc_events",         "streams",    "host_allocations", "host_registrations", "modules",
    "communicators", "registered_buffers", "reduce_ops", "nccl_memory",      "nccl_threads",       "nccl_sockets"};

Book* own_book = nullptr;

template <class F>
void for_each_book(const F& function) {
  for (const auto& entry : std::filesystem::directory_iterator(folder() / "books")) {
    if (entry.file_size() < sizeof(Book)) continue;
    auto* book = static_cast<Book*>(map_shared(entry.path(), sizeof(Book)));
    function(*book);
    ::munmap(book, sizeof(Book));
  }
}

using Sums = std::array<std::int64_t, static_cast<std::size_t>(Item::count)>;

Sums sums_of(const Counts& counts) {
  Sums sums{};
  for (std::size_t item = 0; item < sums.size(); ++item) sums[item] = counts[item].load();
  return sums;
}

bool is_zero(const Sums& sums) {
  return std::all_of(sums.begin(), sums.end(), [](std::int64_t sum) { return sum == 0; });
}

enum class State { live, exited, died };

State state_of(const Book& book) {
  if (lives(book.process)) return State::live;
  return book.exited.load() != 0 ? State::exited : State::died;
}

/// What there is in all processes together. What a process had that died is no leak: the driver cleans up.
struct Summary {
  std::map<int, MemoryUse> memory;
  Sums live{};  // of living processes
  Sums left{};  // of those that ended by themselves and hadn't given it up
};

Summary summarize() {
  Summary summary{observe_memory(), {}, {}};
  for_each_book([&](const Book& book) {
    const auto state = state_of(book);
    if (state == State::died) return;
    auto& sums = state == State::live ? summary.live : summary.left;
    for (const auto& counts : book.devices)
      for (std::size_t item = 0; item < sums.size(); ++item) sums[item] += counts[item].load();
  });
  return summary;
}

std::string as_json(const Sums& sums) {
  std::string text = "{";
  for (std::size_t item = 0; item < sums.size(); ++item)
    text += (item == 0 ? "\"" : ", \"") + std::string(item_names[item]) + "\": " + std::to_string(sums[item]);
  return text + "}";
}

std::string as_json(const std::map<int, MemoryUse>& memory) {
  std::ostringstream text;
  const char* separator = "";
  for (const auto& [device, use] : memory) {
    text << separator << '"' << device << "\": {\"allocations\": " << use.allocations << ", \"bytes\": " << use.bytes
         << "}";
    separator = ", ";
  }
  return "{" + text.str() + "}";
}

std::string as_json(const Book& book) {
  constexpr std::array names{"live", "exited", "died"};
  std::ostringstream text;
  text << "{\"pid\": " << book.process.pid << ", \"state\": \"" << names[static_cast<std::size_t>(state_of(book))]
       << "\", \"devices\": {";
  const char* separator = "";
  for (std::size_t device = 0; device < book.devices.size(); ++device) {
    const auto sums = sums_of(book.devices[device]);
    if (is_zero(sums)) continue;
    text << separator << '"' << device << "\": " << as_json(sums);
    separator = ", ";
  }
  text << "}}";
  return text.str();
}

}  // namespace

void open_book() {
  const auto process = this_process();
  const auto name = std::to_string(process.pid) + "-" + std::to_string(process.start);
  own_book = static_cast<Book*>(map_shared(folder() / "books" / name, sizeof(Book)));
  // A program that this process was before an exec may have left its counts.
  for (auto& counts : own_book->devices)
    for (auto& item : counts) item = 0;
  own_book->exited = 0;
  own_book->process = process;
  std::atexit([] {
    if (own_book != nullptr) own_book->exited = 1;
  });
}

void leave_book() { own_book = nullptr; }

void count(int physical, Item item, std::int64_t change) {
  if (own_book == nullptr) return;
  own_book->devices[static_cast<std::size_t>(physical)][static_cast<std::size_t>(item)] += change;
}

void count(int physical, const std::string& item, std::int64_t change) {
  for (std::size_t at = 0; at < item_names.size(); ++at)
    if (item == item_names[at]) return count(physical, static_cast<Item>(at), change);
  throw std::invalid_argument("the books have no line " + item);
}

std::int64_t contexts_of_others(int physical) {
  std::int64_t contexts = 0;
  for_each_book([&](const Book& book) {
    if (own_book != nullptr && book.process == own_book->process) return;
    const auto& counts = book.devices[static_cast<std::size_t>(physical)];
    if (lives(book.process)) contexts += counts[static_cast<std::size_t>(Item::contexts)].load();
  });
  return contexts;
}

std::string books_as_json() {
  const FolderLock lock;
  const auto summary = summarize();
  std::string text = "{\"memory\": " + as_json(summary.memory) + ", \"live\": " + as_json(summary.live) +
                     ", \"left\": " + as_json(summary.left) + ", \"processes\": [";
  const char* separator = "";
  for_each_book([&](const Book& book) {
    text += separator + as_json(book);
    separator = ", ";
  });
  return text + "]}";
}

bool books_are_empty() {
  const FolderLock lock;
  const auto summary = summarize();
  return summary.memory.empty() && is_zero(summary.live) && is_zero(summary.left);
}

}  // namespace fake_gpu
