// Names that clients give go into logs, lists and other clients' messages, so they must be text.
#pragma once

#include <string_view>

namespace musterd {

/// Well-formed UTF-8 without control characters, and without what can't be seen or turns the direction of other text.
[[nodiscard]] bool is_text(std::string_view bytes);

}  // namespace musterd
