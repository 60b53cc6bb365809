#include "base/starter.hpp"

#include <unistd.h>

#include <iostream>
#include <string>

#include <fmt/format.h>

#include "base/log.hpp"

namespace musterd {

namespace {

void tell(int ready_fd, const std::string& text) {
  if (ready_fd < 0) return;
  if (::write(ready_fd, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    log_warning("nobody reads the ready descriptor {}", ready_fd);
  ::close(ready_fd);
}

}  // namespace

void tell_ready(int ready_fd) { tell(ready_fd, "0\n"); }

void tell_failed(int ready_fd, ExitStatus status, const muster::Error& why) {
  std::cerr << "musterd: " << why.describe() << "\n";
  tell(ready_fd, fmt::format("{}\n{}\n{}\n", static_cast<int>(status), why.message(), why.hint()));
}

}  // namespace musterd
