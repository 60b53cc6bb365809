// The table of NCCL, over libraries of several versions, and the order in which NCCL is looked for.
#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>

#include "environment.hpp"
#include "gpu/nccl.hpp"

namespace musterd::gpu {
namespace {

namespace fs = std::filesystem;
using test::Variable;

OpenedNccl open_stub(const std::string& folder) {
  const std::vector<Candidate> candidates{{STUBS "/" + folder + "/libnccl.so.2", "the test"}};
  return open_nccl(candidates);
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A Python environment with the wheel in it.
class Environment {
 public:
  explicit Environment(const std::string& python = "python3.12") {
    std::string name = fs::temp_directory_path() / "muster-env-XXXXXX";
    root_ = ::mkdtemp(name.data());
    const auto folder = root_ / "lib" / python / "site-packages/nvidia/nccl/lib";
    fs::create_directories(folder);
    fs::copy(STUBS "/nccl/libnccl.so.2", wheel_ = folder / "libnccl.so.2");
  }
  ~Environment() { fs::remove_all(root_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  [[nodiscard]] std::string root() const { return root_.string(); }
  [[nodiscard]] std::string wheel() const { return wheel_.string(); }

 private:
  fs::path root_;
  fs::path wheel_;
};

std::vector<std::string> files(const std::vector<Candidate>& candidates) {
  std::vector<std::string> names;
  for (const auto& candidate : candidates) names.push_back(candidate.file);
  return names;
}

TEST_CASE("all calls of a new NCCL are found") {
  const auto [search, nccl] = open_stub("nccl");
  REQUIRE(nccl);
  CHECK(nccl->version == 23200);
  CHECK(has(nccl->path, "/nccl/libnccl.so.2"));
  CHECK_FALSE(nccl_error(search));
#define MUSTER_CHECK(member, ...) CHECK(nccl->member != nullptr);
  MUSTER_NCCL_CALLS(MUSTER_CHECK)
#undef MUSTER_CHECK
}

TEST_CASE("the oldest NCCL that is new enough may lack newer calls") {
  const auto nccl = open_stub("nccl_oldest").nccl;
  REQUIRE(nccl);
  CHECK(nccl->version == nccl_version_min);
  CHECK(nccl->comm_grow == nullptr);
  CHECK(nccl->all_to_all == nullptr);
  CHECK(nccl->comm_split != nullptr);
}

TEST_CASE("an NCCL that lacks a call of the oldest is refused, and the call is named") {
  const auto [search, nccl] = open_stub("nccl_half");
  CHECK_FALSE(nccl);
  const auto error = nccl_error(search);
  REQUIRE(error);
  CHECK(has(error->message(), "it has no symbol ncclCommSplit"));
  CHECK(has(error->hint(), "pip install nvidia-nccl-cu13"));
}

TEST_CASE("an NCCL that is too old says so, and the next place is tried") {
  const std::vector<Candidate> candidates{{STUBS "/nccl/libnccl.so.2", "one"}, {"/nowhere/libnccl.so.2", "two"}};
  const Variable version("STUB_NCCL_VERSION", "21805");
  const auto [search, nccl] = open_nccl(candidates);
  CHECK_FALSE(nccl);
  CHECK(search.finding == Finding::too_old);
  CHECK(search.attempts.size() == 2);
  const auto error = nccl_error(search);
  REQUIRE(error);
  CHECK(has(error->message(), "it is NCCL 2.18.5, and 2.19.0 is needed at least"));
  CHECK(error->hint() == "pip install -U nvidia-nccl-cu13");
}

TEST_CASE("what is no NCCL, or doesn't tell its version, is refused") {
  const std::vector<Candidate> candidates{{STUBS "/other/libcuda.so.1", "the test"}};
  CHECK(has(open_nccl(candidates).search.attempts.at(0).why, "it is no NCCL"));
  const Variable status("STUB_NCCL_STATUS", "3");
  CHECK(has(open_stub("nccl").search.attempts.at(0).why, "doesn't tell its version"));
}

TEST_CASE("a library that the user names is the only candidate") {
  const auto candidates = nccl_candidates({"/opt/libnccl.so.2", "/wheel/libnccl.so.2"});
  REQUIRE(candidates.size() == 1);
  CHECK(candidates[0].file == "/opt/libnccl.so.2");
  CHECK(candidates[0].only);
}

TEST_CASE("the starter's wheel comes before the activated environment, and the system's comes last") {
  const Environment activated;
  const Environment conda("python3.9");
  const Variable venv("VIRTUAL_ENV", activated.root());
  const Variable prefix("CONDA_PREFIX", conda.root());
  const auto candidates = nccl_candidates({"", "/wheel/libnccl.so.2"});
  const auto names = files(candidates);
  REQUIRE(names.size() >= 4);
  CHECK(names[0] == "/wheel/libnccl.so.2");
  CHECK(names[1] == activated.wheel());
  CHECK(names[2] == conda.wheel());
  CHECK(names.back() == "libnccl.so.2");
  CHECK(std::none_of(candidates.begin(), candidates.end(), [](const Candidate& one) { return one.only; }));
}

TEST_CASE("the same wheel is tried once, and an environment without one is reported") {
  const Environment activated;
  const Variable venv("VIRTUAL_ENV", activated.root());
  const Variable prefix("CONDA_PREFIX", "/nowhere/conda");
  const auto names = files(nccl_candidates({"", activated.wheel()}));
  CHECK(std::count(names.begin(), names.end(), activated.wheel()) == 1);
  CHECK(std::count_if(names.begin(), names.end(),
                      [](const std::string& name) { return name.starts_with("/nowhere/conda/lib/"); }) == 1);
}

TEST_CASE("an NCCL in a wheel is found") {
  const Environment environment;
  const Variable venv("VIRTUAL_ENV", environment.root());
  const auto nccl = open_nccl(nccl_candidates({})).nccl;
  REQUIRE(nccl);
  CHECK(nccl->path == environment.wheel());
}

}  // namespace
}  // namespace musterd::gpu
