// Keeps the wire schema out of the files that ask.
#include "queries.hpp"

#include "inquiry.hpp"

namespace muster::cli {

pid_t daemon_pid(const std::string& socket) {
  const auto inquiry = Inquiry::open(socket);
  return inquiry ? inquiry->daemon_pid().value_or(0) : 0;
}

}  // namespace muster::cli
