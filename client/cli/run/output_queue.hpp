// What waits to be written to stdout and stderr: one queue for both, as they are often the same terminal,
// and each line is written to its end before the next one starts.
#pragma once

#include <cstddef>
#include <deque>
#include <string>

namespace muster::cli {

class OutputQueue {
 public:
  /// Above this the ranks are not read from, so that they wait instead of filling our memory.
  static constexpr std::size_t bytes_max = 1 << 20;

  void push(int fd, std::string text);
  [[nodiscard]] bool empty() const { return entries_.empty(); }
  [[nodiscard]] bool full() const { return bytes_ >= bytes_max; }
  /// The descriptor that is written to next; not empty().
  [[nodiscard]] int fd() const { return entries_.front().fd; }

  enum class Written { some, closed };
  /// Writes a little to fd(), which poll() found writable: no more than it takes without blocking.
  /// closed: nobody reads it any more; all that waits for it is dropped.
  Written write_some();

 private:
  struct Entry {
    int fd;
    std::string text;
  };
  void drop(int fd);

  std::deque<Entry> entries_;
  std::size_t offset_ = 0;  ///< of the first entry, written already
  std::size_t bytes_ = 0;
};

}  // namespace muster::cli
