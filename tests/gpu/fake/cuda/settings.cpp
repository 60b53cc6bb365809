#include "settings.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <stdexcept>

#include "folder.hpp"

namespace fake_gpu {
namespace {

using Values = std::map<std::string, std::string>;

[[noreturn]] void refuse(const std::string& name, const std::string& value) {
  throw std::runtime_error("the fake GPU can't read its setting " + name + "=" + value);
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

void read_file(Values& values) {
  std::ifstream file(folder() / "settings");
  for (std::string line; std::getline(file, line);) {
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const auto equals = line.find('=');
    const auto name = trimmed(line.substr(0, equals));
    if (equals == std::string::npos || !values.contains(name)) refuse(name, "?");
    values[name] = trimmed(line.substr(equals + 1));
  }
}

void read_environment(Values& values) {
  for (auto& [name, value] : values) {
    std::string variable = "MUSTER_FAKE_GPU_";
    for (const char c : name) variable += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (const char* set = std::getenv(variable.c_str())) value = set;
  }
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const auto comma = std::min(text.find(',', at), text.size());
    parts.push_back(trimmed(text.substr(at, comma - at)));
    at = comma + 1;
  }
  return parts;
}

/// A list has a value for each device; its last value is for all that follow.
std::string value_for(const std::string& list, int device) {
  const auto parts = split(list);
  return parts[std::min(static_cast<std::size_t>(device), parts.size() - 1)];
}

int number(const std::string& name, const std::string& value) {
  std::size_t used = 0;
  int result = -1;
  try {
    result = std::stoi(value, &used);
  } catch (const std::exception&) {
  }
  if (used != value.size() || result < 0) refuse(name, value);
  return result;
}

std::uint64_t size(const std::string& name, const std::string& value) {
  std::size_t used = 0;
  std::uint64_t result = 0;
  try {
    result = std::stoull(value, &used);
  } catch (const std::exception&) {
    refuse(name, value);
  }
  const std::map<std::string, int> shifts{{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
  const auto shift = shifts.find(value.substr(used));
  if (shift == shifts.end()) refuse(name, value);
  return result << shift->second;
}

int compute_mode(const std::string& value) {
  if (value == "default") return 0;
  if (value == "prohibited") return 2;
  if (value == "exclusive") return 3;
  refuse("compute_mode", value);
}

DeviceSettings device_of(const Values& values, int physical) {
  const auto of = [&](const char* name) { return value_for(values.at(name), physical); };
  DeviceSettings device;
  device.physical = physical;
  device.name = of("name");
  device.bytes = size("memory", of("memory"));
  device.granularity = size("granularity", of("granularity"));
  device.compute_mode = compute_mode(of("compute_mode"));
  const auto capability = of("compute_capability");
  const auto dot = capability.find('.');
  if (dot == std::string::npos) refuse("compute_capability", capability);
  device.compute_major = number("compute_capability", capability.substr(0, dot));
  device.compute_minor = number("compute_capability", capability.substr(dot + 1));
  return device;
}

/// CUDA C++ Programming Guide, "CUDA Environment Variables": devices after the first that isn't there are hidden.
std::vector<int> visible_devices(int count) {
  std::vector<int> visible;
  const char* named = std::getenv("CUDA_VISIBLE_DEVICES");
  if (named == nullptr) {
    for (int index = 0; index < count; ++index) visible.push_back(index);
    return visible;
  }
  for (const auto& part : split(named)) {
    char* end = nullptr;
    const long index = std::strtol(part.c_str(), &end, 10);
    if (part.empty() || *end != '\0' || index < 0 || index >= count) break;
    visible.push_back(static_cast<int>(index));
  }
  return visible;
}

}  // namespace

bool Settings::can_access_peer(int device, int peer) const {
  if (device == peer || peers == "none") return false;
  if (peers == "all") return true;
  const auto pair = std::to_string(device) + "-" + std::to_string(peer);
  const auto pairs = split(peers);
  return std::find(pairs.begin(), pairs.end(), pair) != pairs.end();
}

Settings read_settings() {
  Values values{{"devices", "1"},
                {"memory", "1GiB"},
                {"name", "Muster Fake GPU"},
                {"granularity", "2MiB"},
                {"compute_mode", "default"},
                {"compute_capability", "9.0"},
                {"driver_version", "13000"},
                {"fabric", "0"},
                {"read_only_access", "1"},
                {"read_only_registration", "1"},
                {"pageable", "late"},
                {"nccl_deaths", "noticed"},
                {"peers", "all"}};
  read_file(values);
  read_environment(values);
  Settings settings;
  settings.driver_version = number("driver_version", values["driver_version"]);
  settings.fabric = number("fabric", values["fabric"]) != 0;
  settings.read_only_access = number("read_only_access", values["read_only_access"]) != 0;
  settings.read_only_registration = number("read_only_registration", values["read_only_registration"]) != 0;
  settings.peers = values["peers"];
  settings.late_pageable = values["pageable"] == "late";
  if (!settings.late_pageable && values["pageable"] != "staged") refuse("pageable", values["pageable"]);
  settings.nccl_deaths = values["nccl_deaths"];
  if (settings.nccl_deaths != "noticed" && settings.nccl_deaths != "unnoticed")
    refuse("nccl_deaths", settings.nccl_deaths);
  const int count = number("devices", values["devices"]);
  if (count > devices_max) refuse("devices", values["devices"]);
  for (const int physical : visible_devices(count)) settings.devices.push_back(device_of(values, physical));
  return settings;
}

}  // namespace fake_gpu
