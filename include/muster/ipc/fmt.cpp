// fmt's functions for all of libmuster, compiled once. They stay inline functions: a program that links libmuster and a
// fmt of its own does not have two definitions of one.
#define FMT_HEADER_ONLY
#include <fmt/format.h>

namespace muster::ipc {

/// All that formats calls this one, and it needs all the others.
extern std::string (*const vformat)(fmt::string_view, fmt::format_args);
std::string (*const vformat)(fmt::string_view, fmt::format_args) = &fmt::vformat;

}  // namespace muster::ipc
