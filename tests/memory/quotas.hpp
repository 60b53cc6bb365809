// Limits of a ledger for tests: plenty of every resource except the one that a test is about.
#pragma once

#include "memory/ledger.hpp"

namespace musterd::testing {

inline constexpr std::uint64_t kibibyte = 1 << 10;
inline constexpr std::uint64_t mebibyte = 1 << 20;

inline Quota memory_quota(std::uint64_t total, std::uint64_t per_user, std::uint64_t per_client) {
  constexpr std::uint64_t plenty = 1 << 20;
  constexpr std::uint64_t heap = 1 << 30;
  return {.total = {total, plenty, plenty, plenty, plenty, heap, plenty},
          .per_user = {per_user, plenty, plenty, plenty, plenty, heap, plenty},
          .per_client = {per_client, plenty, plenty, plenty, plenty, heap, plenty}};
}
inline Quota memory_quota(std::uint64_t total) { return memory_quota(total, total, total); }

inline bool holds_nothing(const Ledger& ledger) { return ledger.total().used == Amounts{}; }

}  // namespace musterd::testing
