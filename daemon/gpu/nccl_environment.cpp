#include "gpu/nccl_environment.hpp"

#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace musterd::gpu {

std::vector<std::string> nccl_variables() {
  std::vector<std::string> found;
  for (char** each = environ; *each; ++each)
    if (std::string_view(*each).starts_with("NCCL_")) found.emplace_back(*each);
  return found;
}

void set_nccl_variables() {
  constexpr int keep_what_is_set = 0;
  ::setenv("NCCL_SOCKET_IFNAME", "lo", keep_what_is_set);
  ::setenv("NCCL_RAS_ENABLE", "0", keep_what_is_set);
}

}  // namespace musterd::gpu
