// Devices, as users write them.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <muster/device.hpp>
#include <muster/result.hpp>

namespace muster::ipc {

/// The device of such a name(); "cuda" is the first GPU. Invalid for anything else.
[[nodiscard]] Result<Device> parse_device(std::string_view text);

/// Who has memory on these devices is asked for memory on another one.
[[nodiscard]] Error no_such_device(Device asked, std::span<const Device> there);

}  // namespace muster::ipc
