// How much the control thread does in one turn, before others have theirs.
#pragma once

#include <cstddef>

namespace musterd {

/// In units of about a microsecond, see Muster::lose(). So a turn takes about a quarter of a millisecond.
inline constexpr std::size_t effort_of_turn = 256;

}  // namespace musterd
