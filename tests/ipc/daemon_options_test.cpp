// Which values the daemon's options accept.
#include <catch2/catch.hpp>

#include <limits>
#include <set>

#include <muster/ipc/daemon_options.hpp>

using muster::ipc::daemon_option;
using muster::ipc::daemon_options;
using muster::ipc::parse_daemon_option;

namespace {

double value_of(std::string_view flag, std::string_view text) {
  const auto parsed = parse_daemon_option(daemon_option(flag), text);
  return parsed ? *parsed : std::numeric_limits<double>::quiet_NaN();
}

bool takes(std::string_view flag, std::string_view text) {
  return static_cast<bool>(parse_daemon_option(daemon_option(flag), text));
}

}  // namespace

TEST_CASE("each option has its own flag, and is found by it") {
  std::set<std::string_view> flags;
  for (const auto& option : daemon_options()) {
    CHECK(flags.insert(option.flag).second);
    CHECK(&daemon_option(option.flag) == &option);
  }
}

TEST_CASE("values are read by their kind") {
  CHECK(value_of("--memory", "4MiB") == 4 << 20);
  CHECK(value_of("--lanes", "7") == 7);
  CHECK(value_of("--idle-exit", "0.25") == 0.25);
  CHECK(value_of("--socket-mode", "0660") == 0660);
  CHECK(value_of("--log-format", "text") == 0);
  CHECK(value_of("--log-format", "json") == 1);
  CHECK(value_of("--log-level", "error") == 3);
  CHECK(takes("--socket", "anything"));
}

TEST_CASE("values out of bounds, or with something after them, are refused") {
  CHECK(takes("--lanes", "1"));
  CHECK(takes("--lanes", "1024"));
  for (const char* text : {"0", "1025", "-1", "1.5", "1x", " 1", "", "nan", "inf"}) CHECK_FALSE(takes("--lanes", text));
  for (const char* text : {"-1", "nan", "31622401", "1s", ""}) CHECK_FALSE(takes("--pickle-lease", text));
  for (const char* text : {"0", "4194303", "5Q", "-1", ""}) CHECK_FALSE(takes("--memory", text));
  for (const char* text : {"8", "1000", "-1", "0x7", ""}) CHECK_FALSE(takes("--socket-mode", text));
  for (const char* text : {"", "tex", "text,", "text, json", "[text]", "info"})
    CHECK_FALSE(takes("--log-format", text));
}
