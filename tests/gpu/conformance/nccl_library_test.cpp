// NCCL User Guide, "ncclGetVersion", "ncclGetErrorString", "ncclGetLastError", "Types".
#include <set>

#include "gpu/nccl_calls.hpp"
#include "nccl.hpp"

using namespace conformance;

TEST_CASE("NCCL tells a version, and has the calls of that version") {
  const int version = nccl_version();
  REQUIRE(version >= 21900);
  CHECK(NC(ncclGetVersion)(nullptr) == ncclInvalidArgument);
#define MUSTER_CHECK_SYMBOL(member, name, since, ...) \
  INFO(#name);                                        \
  CHECK((::dlsym(nccl_library(), #name) != nullptr) == (version >= (since)));
  MUSTER_NCCL_CALLS(MUSTER_CHECK_SYMBOL)
}

TEST_CASE("each error has a text of its own") {
  std::set<std::string> texts;
  for (int code = 0; code <= 7; ++code) {
    const char* text = NC(ncclGetErrorString)(static_cast<ncclResult_t>(code));
    REQUIRE(text != nullptr);
    texts.insert(text);
  }
  CHECK(texts.size() == 8);
  CHECK(NC(ncclGetErrorString)(static_cast<ncclResult_t>(15)) != nullptr);
}

TEST_CASE("a call that fails leaves a text for ncclGetLastError") {
  CHECK(NC(ncclCommDestroy)(nullptr) == ncclSuccess);
  CHECK(NC(ncclCommAbort)(nullptr) == ncclSuccess);
  ncclResult_t state = ncclSuccess;
  CHECK(NC(ncclCommGetAsyncError)(nullptr, &state) == ncclInvalidArgument);
  REQUIRE(NC(ncclGetLastError)(nullptr) != nullptr);
  CHECK(std::strlen(NC(ncclGetLastError)(nullptr)) > 0);
}
