// Detects whether other processes kept the machine busy, from the kernel's counters.
#include <catch2/catch.hpp>

#include "bench/load.hpp"
#include "bench/report.hpp"

using namespace muster::cli;  // NOLINT: a test

namespace {

constexpr double second = 1e6;
const auto every = [](unsigned) { return true; };

const std::string proc_stat =
    "cpu  110 22 33 440 55 66 77 88 99 11\n"
    "cpu0 10 2 3 40 5 6 7 8 9 1\n"
    "cpu1 100 20 30 400 50 60 70 80 90 10\n"
    "cpu12 1000 200 300 4000\n"
    "cpufreq 1 2 3\n"
    "intr 123 cpu0 456\n";

}  // namespace

TEST_CASE("busy time is all but idle time and waiting, and counts the time of guests once") {
  CHECK(busy_us_of(proc_stat, 10e3, [](unsigned cpu) { return cpu == 0; }) == (10 + 2 + 3 + 6 + 7 + 8) * 10e3);
  CHECK(busy_us_of(proc_stat, 10e3, [](unsigned cpu) { return cpu == 12; }) == 1500 * 10e3);
  CHECK(busy_us_of(proc_stat, 1, every) == 36 + 360 + 1500);
}

TEST_CASE("a text without any of the cores gives no load") {
  for (const char* text : {"", "cpu 1 2 3", "cpux 1 2 3", "nothing"}) CHECK_FALSE(busy_us_of(text, 1, every));
  CHECK_FALSE(busy_us_of(proc_stat, 1, [](unsigned) { return false; }));
}

TEST_CASE("the share of others is the busy time that the benchmark did not use") {
  CHECK(others_share({second, 2, 2 * second, second}) == 0.5);
  CHECK(others_share({second, 4, second, second}) == 0);
  // Ticks are coarse: the benchmark may seem to have used more than everything, or others more than there is.
  CHECK(others_share({second, 4, second, 1.1 * second}) == 0);
  CHECK(others_share({second, 1, 1.2 * second, 0}) == 1);
}

TEST_CASE("a short time, or unknown cores, give no share of others") {
  CHECK_FALSE(others_share({load_wall_us_min - 1, 2, second, 0}));
  CHECK(others_share({load_wall_us_min, 2, second, 0}));
  CHECK_FALSE(others_share({second, 0, second, 0}));
  CHECK_FALSE(others_share({second, 2, 0, second}));
}

TEST_CASE("stretches of time add up") {
  Load load;
  load.extend({second, 2, second, second});
  load.extend({0, 0, 0, second / 2});  // of a rank other than 0
  load.extend({second, 2, 2 * second, 0});
  CHECK(load.cores == 2);
  CHECK(others_share(load) == 0.375);
}

TEST_CASE("a busy machine is reported, a quiet one and an unknown one are not") {
  CHECK_FALSE(is_busy(std::nullopt));
  CHECK_FALSE(is_busy(0.0));
  CHECK_FALSE(is_busy(busy_share_min / 2));
  CHECK(is_busy(busy_share_min));
  CHECK(is_busy(1.0));
  CHECK(load_line({second, 2, 2 * second, second}) ==
        "# the machine was busy: other processes used 50 % of 2 cores; times are shorter on a quiet machine\n");
  CHECK(load_line({second, 2, second, second}).empty());
  CHECK(load_line({1, 2, 2, 0}).empty());
}
