// Names that clients give go into logs, lists and other clients' messages, so they must be text.
#pragma once

#include <string_view>

namespace musterd {

/// Well-formed UTF-8 without control characters.
[[nodiscard]] bool is_text(std::string_view bytes);

}  // namespace musterd
