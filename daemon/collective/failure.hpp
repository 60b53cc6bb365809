// The error of an op that failed, in the form in which it is remembered for ranks that come late. It takes little
// memory.
#pragma once

#include <cstddef>
#include <vector>

#include <muster/result.hpp>

namespace musterd {

class Failure {
 public:
  /// A long list of ranks of the group becomes a set.
  Failure(const muster::Error& error, int world_size);
  /// Shortens it to about `bytes_max`: drops the hint first, then the ranks, then the end of the message. A set of
  /// ranks stays.
  void shorten(std::size_t bytes_max);

  /// What every rank gets.
  [[nodiscard]] muster::Error error() const;
  [[nodiscard]] muster::Code code() const { return error_.code(); }
  /// About what it takes, without a set of ranks.
  [[nodiscard]] std::size_t bytes() const;
  /// About what a failure takes beside bytes().
  [[nodiscard]] static std::size_t bytes_beside(int world_size);

 private:
  muster::Error error_;
  std::vector<bool> named_;  ///< the ranks that the error names, if they are many; error_ has none then
};

}  // namespace musterd
