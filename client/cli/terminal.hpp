// Decides whether to use colours: only on terminals, and not where NO_COLOR is set (https://no-color.org).
#pragma once

#include <string>

namespace muster::cli {

/// Whether our terminal, if there is one, understands ANSI control sequences.
[[nodiscard]] bool knows_escapes();
[[nodiscard]] bool wants_colour(int fd);
/// "[3]", in the rank's colour if wanted.
[[nodiscard]] std::string rank_prefix(int rank, bool colour);

enum class Tint { green, yellow, red };
[[nodiscard]] std::string tinted(const std::string& text, Tint tint, bool colour);

}  // namespace muster::cli
