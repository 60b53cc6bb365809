// How long ops keep the control thread busy, in about microseconds. Code that starts or ends many ops adds this up, and
// leaves the rest to later turns.
#pragma once

#include <cstddef>

#include "collective/contribution.hpp"

namespace musterd {

/// More than one turn does. Counting stops here, as to count on would take long, too.
inline constexpr std::size_t op_effort_max = 1024;

/// The work of checking a contribution, reading its arrays for the op's plan, telling its rank, and letting its inputs
/// go.
[[nodiscard]] std::size_t effort_of(const Contribution& contribution);
/// The work of all its contributions together.
[[nodiscard]] std::size_t effort_of(const Op& op);

}  // namespace musterd
