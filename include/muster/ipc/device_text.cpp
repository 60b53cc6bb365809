#include <muster/ipc/device_text.hpp>

#include <charconv>
#include <system_error>

#include <fmt/format.h>

#include <muster/ipc/text.hpp>

namespace muster::ipc {

Result<Device> parse_device(std::string_view text) {
  if (text == "cpu") return Device::cpu();
  if (text == "pinned") return Device::pinned();
  if (text == "cuda") return Device::cuda(0);
  constexpr std::string_view prefix = "cuda:";
  if (text.starts_with(prefix)) {
    const auto number = text.substr(prefix.size());
    unsigned index = 0;
    const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), index);
    const bool is_number = problem == std::errc() && end == number.data() + number.size();
    if (is_number && index < gpus_max) return Device::cuda(static_cast<std::uint8_t>(index));
  }
  return Error(Code::invalid, fmt::format("there is no device '{}'", printable(shortened(text, 40))),
               fmt::format("use 'cpu', 'pinned', or 'cuda:0' to 'cuda:{}'", gpus_max - 1));
}

Error no_such_device(Device asked, std::span<const Device> there) {
  std::string all;
  for (const Device device : there) all += (all.empty() ? "" : ", ") + name(device);
  return {Code::invalid, fmt::format("the daemon has no memory on {}; it has memory on {}", name(asked), all),
          "use one of those devices, or see `muster doctor` for what is missing"};
}

}  // namespace muster::ipc
