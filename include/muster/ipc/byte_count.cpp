#include <muster/ipc/byte_count.hpp>

#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>

namespace muster::ipc {

Result<std::uint64_t> parse_bytes(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, text.data() + text.size());
  for (char& c : unit) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (unit.ends_with("IB")) unit.resize(unit.size() - 2);
  else if (unit.ends_with("B")) unit.resize(unit.size() - 1);
  const std::string_view units = "KMGT";
  const auto power = unit.empty() ? 0 : units.find(unit.front()) + 1;
  const double scaled = value * std::pow(1024.0, static_cast<double>(power));
  constexpr double bytes_max = 1ULL << 50;
  if (error != std::errc{} || unit.size() > 1 || (!unit.empty() && power == 0) || !(scaled >= 1) || scaled > bytes_max)
    return Error(Code::invalid, "'" + text + "' is not a size", "use for instance 512MiB or 4GiB");
  return static_cast<std::uint64_t>(scaled);
}

}  // namespace muster::ipc
