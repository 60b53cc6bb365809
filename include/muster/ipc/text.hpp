// What clients name goes into logs, lists and other clients' messages, so it must be text.
#pragma once

#include <string>
#include <string_view>

namespace muster::ipc {

/// Well-formed UTF-8 without control characters, and without what can't be seen or turns the direction of other text.
[[nodiscard]] bool is_text(std::string_view bytes);
/// The bytes as they are if they are text; else all but printable ASCII as \x1b.
[[nodiscard]] std::string printable(std::string_view bytes);

}  // namespace muster::ipc
