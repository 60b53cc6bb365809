// Which ranks are members of a group's epoch, and which of them are lost or vacant. It knows of no ops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "collective/messages.hpp"

namespace musterd {

class Members {
 public:
  enum class Standing : std::uint8_t {
    absent,  ///< not a member of this epoch
    live,
    vacant,  ///< gone, and a replacement is awaited
    gone,    ///< lost for the rest of the epoch
  };
  /// `ranks` are the members. All are live.
  Members(int world_size, std::span<const int> ranks);

  [[nodiscard]] int world_size() const { return static_cast<int>(standings_.size()); }
  [[nodiscard]] bool is_rank(int rank) const { return rank >= 0 && rank < world_size(); }
  /// Absent if there is no such rank.
  [[nodiscard]] Standing standing(int rank) const {
    return is_rank(rank) ? standings_[static_cast<std::size_t>(rank)] : Standing::absent;
  }
  [[nodiscard]] bool is_live(int rank) const { return standing(rank) == Standing::live; }
  [[nodiscard]] bool is_vacant(int rank) const { return standing(rank) == Standing::vacant; }
  /// Whether the rank, or a replacement, may still call ops.
  [[nodiscard]] bool may_come(int rank) const { return is_live(rank) || is_vacant(rank); }
  /// How many ranks may still call ops.
  [[nodiscard]] std::size_t expected() const { return expected_; }
  [[nodiscard]] std::size_t count_live() const;

  /// Takes the memory that withdraw() needs. After that it can't fail.
  void prepare_loss(int rank, const Loss& loss);
  /// A live rank is gone for the rest of the epoch, or its seat is vacant.
  void withdraw(int rank, const Loss& loss, Standing after);
  /// A replacement took a vacant seat.
  void reoccupy(int rank);
  /// From now on new ops fail: a rank was lost under policy fail. If it has left, those of two live ranks go on.
  void refuse_ops(const Loss& loss) { (loss.has_left() ? refuses_ops_ : refuses_pairs_) = true; }
  [[nodiscard]] bool refuses_ops() const { return refuses_ops_ || refuses_pairs_; }
  /// Whether ops of two live ranks fail, too.
  [[nodiscard]] bool refuses_pairs() const { return refuses_pairs_; }

  /// Why the lost and vacant ranks are gone.
  [[nodiscard]] const Losses& losses() const { return losses_; }
  /// The lost and vacant ranks.
  [[nodiscard]] std::set<int> lost() const;
  /// The ranks that don't come back, in the order of their losses.
  [[nodiscard]] std::span<const int> gone() const { return gone_; }

 private:
  std::vector<Standing> standings_;  ///< by rank
  std::size_t expected_;
  Losses losses_;
  std::vector<int> gone_;
  bool refuses_ops_ = false;
  bool refuses_pairs_ = false;
};

}  // namespace musterd
