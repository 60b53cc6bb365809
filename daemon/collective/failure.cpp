#include "collective/failure.hpp"

#include <algorithm>
#include <functional>

#include <muster/ipc/text.hpp>

namespace musterd {

using muster::Error;

namespace {

std::size_t bytes_of(const Error& error) {
  return sizeof(Error) + error.message().size() + error.hint().size() + error.ranks().size() * sizeof(int);
}

/// Whether the error names so many ranks that a set of them takes less memory than the list.
bool names_many(const Error& error, int world_size) {
  constexpr std::size_t few = 16;
  const auto& ranks = error.ranks();
  const bool is_rising = std::ranges::adjacent_find(ranks, std::greater_equal<>()) == ranks.end();
  return ranks.size() > few && is_rising && ranks.front() >= 0 && ranks.back() < world_size;
}

}  // namespace

Failure::Failure(const Error& error, int world_size)
    : error_(names_many(error, world_size) ? Error(error.code(), error.message(), error.hint()) : error) {
  if (error_.ranks().size() == error.ranks().size()) return;
  named_.resize(static_cast<std::size_t>(world_size));
  for (const int rank : error.ranks()) named_[static_cast<std::size_t>(rank)] = true;
}

void Failure::shorten(std::size_t bytes_max) {
  if (bytes() <= bytes_max) return;
  error_ = Error(error_.code(), error_.message(), {}, error_.ranks());
  if (bytes() <= bytes_max) return;
  const std::size_t message_max = bytes_max - std::min(bytes_max, sizeof(Error));
  error_ = Error(error_.code(), muster::ipc::cut(error_.message(), message_max));
}

Error Failure::error() const {
  if (named_.empty()) return error_;
  std::vector<int> ranks;
  for (std::size_t rank = 0; rank < named_.size(); ++rank)
    if (named_[rank]) ranks.push_back(static_cast<int>(rank));
  return {error_.code(), error_.message(), error_.hint(), std::move(ranks)};
}

std::size_t Failure::bytes() const { return bytes_of(error_); }

std::size_t Failure::bytes_beside(int world_size) {
  return sizeof(Failure) - sizeof(Error) + static_cast<std::size_t>(world_size) / 8;
}

}  // namespace musterd
