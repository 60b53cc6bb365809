// How long ops keep the control thread, in about microseconds. What starts or ends many of them at once adds this up,
// and leaves the rest to later turns.
#pragma once

#include <cstddef>

#include "collective/contribution.hpp"

namespace musterd {

/// More than is done in one turn, and as much as is counted: to count on would take long, too.
inline constexpr std::size_t op_effort_max = 1024;

/// To check it, to read what its arrays are for the op's plan, to tell its rank, and to let its inputs go.
[[nodiscard]] std::size_t effort_of(const Contribution& contribution);
/// All of them together.
[[nodiscard]] std::size_t effort_of(const Op& op);

}  // namespace musterd
