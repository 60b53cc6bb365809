// How much the control thread does in one turn, before others have theirs.
#pragma once

#include <cstddef>

namespace musterd {

/// Of what takes about a microsecond each: see Muster::lose(). So a turn is about a fifth of a millisecond.
inline constexpr std::size_t effort_of_turn = 256;

}  // namespace musterd
