// The table of the CUDA driver, over libraries that have its symbols or lack some.
#include <catch2/catch.hpp>

#include "environment.hpp"
#include "gpu/cuda.hpp"

namespace musterd::gpu {
namespace {

using cuda::Status;
using test::Variable;

OpenedDriver open_stub(const std::string& folder) {
  const std::vector<Candidate> candidates{{STUBS "/" + folder + "/libcuda.so.1", "the test"}};
  return open_driver(candidates);
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("all calls are found, by the driver's own search or by their symbols") {
  for (const char* folder : {"cuda", "cuda_by_symbol"}) {
    INFO(folder);
    const auto [search, driver] = open_stub(folder);
    REQUIRE(driver);
    CHECK(driver->version == 13000);
    CHECK(has(driver->path, folder));
    CHECK_FALSE(driver_error(search));
#define MUSTER_CHECK(member, ...) CHECK(driver->member != nullptr);
    MUSTER_DRIVER_CALLS(MUSTER_CHECK)
#undef MUSTER_CHECK
    CHECK(driver->init(0) == Status::success);
    std::size_t bytes = 0;
    CHECK(driver->device_total_mem(&bytes, 0) == Status::success);
    CHECK(bytes == std::size_t{80} << 30);
  }
}

TEST_CASE("a driver that lacks a call is refused, and the call is named") {
  const Variable lacks("STUB_CUDA_LACKS", "cuMemCreate");
  const auto [search, driver] = open_stub("cuda");
  CHECK_FALSE(driver);
  CHECK(search.finding == Finding::refused);
  const auto error = driver_error(search);
  REQUIRE(error);
  CHECK(error->code() == muster::Code::invalid);
  CHECK(has(error->message(), "it has no symbol cuMemCreate of version 10020"));
  CHECK(has(error->message(), STUBS "/cuda/libcuda.so.1 (the test)"));
  CHECK_FALSE(error->hint().empty());
}

TEST_CASE("a driver without its own search that lacks a symbol is refused") {
  const auto [search, driver] = open_stub("cuda_half");
  CHECK_FALSE(driver);
  CHECK(has(search.attempts.at(0).why, "cuMemAlloc of version 3020"));
}

TEST_CASE("a driver that is too old says so, whatever else it lacks") {
  const Variable version("STUB_CUDA_VERSION", "12040");
  const Variable lacks("STUB_CUDA_LACKS", "cuMemCreate");
  const auto [search, driver] = open_stub("cuda");
  CHECK_FALSE(driver);
  CHECK(search.finding == Finding::too_old);
  const auto error = driver_error(search);
  REQUIRE(error);
  CHECK(has(error->message(), "it is for CUDA 12.4, and 13.0 is needed at least"));
  CHECK(has(error->hint(), "580"));
}

TEST_CASE("the oldest driver that is new enough is taken") {
  const Variable version("STUB_CUDA_VERSION", std::to_string(driver_version_min));
  CHECK(open_stub("cuda").driver);
}

TEST_CASE("what is no driver is refused") {
  const auto [search, driver] = open_stub("other");
  CHECK_FALSE(driver);
  CHECK(has(search.attempts.at(0).why, "it is no CUDA driver"));
  const Variable status("STUB_CUDA_VERSION_STATUS", "34");  // the toolkit's stub answers so
  CHECK(has(open_stub("cuda").search.attempts.at(0).why, "the toolkit's stub"));
}

TEST_CASE("without a driver the error says where it was looked for") {
  const std::vector<Candidate> candidates{{"/nowhere/libcuda.so.1", "the test"}};
  const auto error = driver_error(open_driver(candidates).search);
  REQUIRE(error);
  CHECK(error->message() ==
        "the CUDA driver (libcuda.so.1) was not found: /nowhere/libcuda.so.1 (the test): it is not there");
}

TEST_CASE("the system's loader is asked first") {
  const auto candidates = driver_candidates();
  REQUIRE_FALSE(candidates.empty());
  CHECK(candidates[0].file == "libcuda.so.1");
}

TEST_CASE("a status is described by number, and by the driver's words where it has some") {
  const auto driver = open_stub("cuda").driver;
  REQUIRE(driver);
  CHECK(driver->describe(Status::no_device) == "CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device is detected");
  CHECK(driver->describe(Status::system_driver_mismatch) == "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)");
  CHECK(driver->describe(static_cast<Status>(12345)) == "an unknown status (12345)");
}

TEST_CASE("each reason for which cuInit fails has a hint of its own") {
  const auto driver = open_stub("cuda").driver;
  REQUIRE(driver);
  const auto hint = [&](Status status) { return init_error(*driver, status).hint(); };
  CHECK(has(hint(Status::system_driver_mismatch), "different versions"));
  CHECK(has(hint(Status::no_device), "nvidia-smi -L"));
  CHECK(has(hint(Status::system_not_ready), "nvidia-fabricmanager"));
  CHECK(has(hint(Status::unknown), "nvidia-smi"));
  CHECK(has(init_error(*driver, Status::no_device).message(), "cuInit failed: CUDA_ERROR_NO_DEVICE (100)"));
  for (const char* value : {"", "-1", "7"}) {
    const Variable visible("CUDA_VISIBLE_DEVICES", value);
    CHECK(has(hint(Status::no_device), "CUDA_VISIBLE_DEVICES is '" + std::string(value) + "'"));
  }
}

}  // namespace
}  // namespace musterd::gpu
