// The search for a library: its order, and what it reports of each place.
#include <catch2/catch.hpp>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gpu/cuda.hpp"

namespace musterd::gpu {
namespace {

namespace fs = std::filesystem;

const std::string other = STUBS "/other/libcuda.so.1";
const std::string cuda = STUBS "/cuda/libcuda.so.1";

/// Takes every library that has the symbol.
Examine wants(const char* symbol) {
  return [symbol](const Library& library, Search& search) -> std::unique_ptr<Refusal> {
    if (!library.find(symbol)) return std::make_unique<Refusal>(Refusal{Finding::refused, "it lacks the symbol"});
    search.version = 7;
    return nullptr;
  };
}

/// A file that is gone when the test ends.
class File {
 public:
  explicit File(const std::string& content) {
    std::string name = fs::temp_directory_path() / "muster-library-XXXXXX";
    ::close(::mkstemp(name.data()));
    path_ = name;
    std::ofstream(path_) << content;
  }
  ~File() { fs::remove(path_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

TEST_CASE("the first library that fits is taken, and what came before it is reported") {
  const std::vector<Candidate> candidates{
      {"/nowhere/libcuda.so.1", "first"}, {other, "second"}, {cuda, "third"}, {"/nowhere/else", "fourth"}};
  const auto search = search_library(candidates, wants("cuInit"));
  CHECK(search.finding == Finding::found);
  CHECK(search.path == cuda);
  CHECK(search.version == 7);
  REQUIRE(search.attempts.size() == 3);
  CHECK(search.attempts[0].finding == Finding::absent);
  CHECK(search.attempts[1].finding == Finding::refused);
  CHECK(search.attempts[2].finding == Finding::found);
  CHECK(search.places() == "/nowhere/libcuda.so.1 (first): it is not there; " + other +
                               " (second): it lacks the symbol; " + cuda + " (third)");
}

TEST_CASE("after a library that the user names, no other is tried") {
  const std::vector<Candidate> candidates{{"/nowhere/libcuda.so.1", "the user", true}, {cuda, "the system"}};
  const auto search = search_library(candidates, wants("cuInit"));
  CHECK(search.finding == Finding::absent);
  CHECK(search.attempts.size() == 1);
  CHECK(search.path.empty());
}

TEST_CASE("a search ends with what came closest") {
  const std::vector<Candidate> candidates{{other, "one"}, {"/nowhere/libcuda.so.1", "two"}};
  CHECK(search_library(candidates, wants("cuInit")).finding == Finding::refused);
  CHECK(search_library({}, wants("cuInit")).finding == Finding::absent);
}

TEST_CASE("a file that is no library, or a folder, is refused in the loader's words") {
  const File text("this is a text, and much longer than the header of a library, which has sixty-four bytes.....");
  const std::vector<Candidate> candidates{{text.path(), "a text"}, {STUBS, "a folder"}};
  const auto search = search_library(candidates, wants("cuInit"));
  REQUIRE(search.attempts.size() == 2);
  for (const auto& attempt : search.attempts) {
    CHECK(attempt.finding == Finding::refused);
    CHECK(attempt.why.starts_with("the loader refuses it: "));
  }
  CHECK(search.attempts[0].why.find("invalid ELF header") != std::string::npos);
}

TEST_CASE("a name without a folder is looked for by the loader, in folders that can be listed") {
  const std::vector<Candidate> candidates{{"libdl.so.2", "the system"}};
  const auto search = search_library(candidates, [](const Library& library, Search&) {
    CHECK(library.path().ends_with("/libdl.so.2"));
    return std::unique_ptr<Refusal>();
  });
  CHECK(search.finding == Finding::found);
  const std::string folder = fs::path(search.path).parent_path().string();
  CHECK(loader_folders().find(folder) != std::string::npos);
}

TEST_CASE("a refusal names the file that the loader took for a bare name") {
  const std::vector<Candidate> candidates{{"libdl.so.2", "the system"}};
  const auto search = search_library(candidates, wants("cuInit"));
  REQUIRE(search.attempts.size() == 1);
  CHECK(search.attempts[0].why.ends_with("/libdl.so.2: it lacks the symbol"));
}

}  // namespace
}  // namespace musterd::gpu
