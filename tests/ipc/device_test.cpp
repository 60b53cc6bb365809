// Devices and their names.
#include <catch2/catch.hpp>
#include <muster/ipc/device_text.hpp>

namespace muster::ipc {
namespace {

TEST_CASE("a device has a name, and the name gives the device") {
  REQUIRE(name(Device::cpu()) == "cpu");
  REQUIRE(name(Device::pinned()) == "pinned");
  REQUIRE(name(Device::cuda(3)) == "cuda:3");
  for (const auto device : {Device::cpu(), Device::pinned(), Device::cuda(0), Device::cuda(gpus_max - 1)})
    REQUIRE(*parse_device(name(device)) == device);
  REQUIRE(*parse_device("cuda") == Device::cuda(0));
}

TEST_CASE("what names no device is Invalid, and the message says what does") {
  for (const auto* text : {"", "CPU", "gpu", "cuda:", "cuda:16", "cuda:-1", "cuda: 0", "cuda:0x", "cuda:99999999999999",
                           "pinned:0", "cpu:0"}) {
    const auto parsed = parse_device(text);
    CAPTURE(text);
    REQUIRE(parsed.error().code() == Code::invalid);
    CHECK(parsed.error().message() == "there is no device '" + std::string(text) + "'");
    CHECK(parsed.error().hint() == "use 'cpu', 'pinned', or 'cuda:0' to 'cuda:15'");
  }
}

TEST_CASE("numbers from elsewhere are a device or nothing") {
  std::size_t devices = 0;
  for (unsigned kind = 0; kind < 256; ++kind)
    for (unsigned index = 0; index < 256; ++index)
      devices += Device::of(static_cast<std::uint8_t>(kind), static_cast<std::uint8_t>(index)).has_value() ? 1U : 0U;
  REQUIRE(devices == 2 + gpus_max);
}

}  // namespace
}  // namespace muster::ipc
