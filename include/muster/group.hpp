// A Group is this process's seat in a named set of ranks; its collectives return at once with a Work.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <muster/options.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>
#include <muster/types.hpp>
#include <muster/work.hpp>

namespace muster {

namespace detail {
struct Seat;  // client/core/protocol/seat.hpp
}

/// An op that this seat owes after it took over the seat of a lost rank.
struct OwedOp {
  std::uint64_t sequence = 0;
  std::string key;
  std::string kind;
};

class Group {
 public:
  Group() = default;
  explicit Group(std::shared_ptr<detail::Seat> seat) : seat_(std::move(seat)) {}

  [[nodiscard]] const std::string& name() const;
  [[nodiscard]] int rank() const;
  [[nodiscard]] int world_size() const;
  [[nodiscard]] std::uint32_t epoch() const;
  [[nodiscard]] std::vector<int> live() const;  ///< ranks that are not lost, in rising order
  [[nodiscard]] std::vector<OwedOp> owes() const;
  [[nodiscard]] std::uint64_t position() const;  ///< sequence number of this seat's next op matched by order

  [[nodiscard]] Result<Work> barrier(OpOptions options = {});
  /// Elementwise reduction over ranks; every rank gives the same structure and shapes.
  [[nodiscard]] Result<Work> allreduce(const Ref& input, ReduceOp op = ReduceOp::sum, OpOptions options = {});
  [[nodiscard]] Result<Work> reduce(const Ref& input, int root = 0, ReduceOp op = ReduceOp::sum,
                                    OpOptions options = {});
  /// Inclusive prefix reduction: rank r gets the fold over ranks 0..r.
  [[nodiscard]] Result<Work> scan(const Ref& input, ReduceOp op = ReduceOp::sum, OpOptions options = {});
  /// `input` is used on the root only.
  [[nodiscard]] Result<Work> broadcast(const Ref& input, int root = 0, OpOptions options = {});
  [[nodiscard]] Result<Work> allgather(const Ref& input, bool stack = false, OpOptions options = {});
  [[nodiscard]] Result<Work> gather(const Ref& input, int root = 0, OpOptions options = {});
  /// `inputs`: world_size on the root, empty elsewhere.
  [[nodiscard]] Result<Work> scatter(std::span<const Ref> inputs, int root = 0, OpOptions options = {});
  /// `inputs`: world_size of them.
  [[nodiscard]] Result<Work> reduce_scatter(std::span<const Ref> inputs, ReduceOp op = ReduceOp::sum,
                                            OpOptions options = {});
  /// `inputs`: world_size of them. concat: the result is one array, joined along axis 0.
  [[nodiscard]] Result<Work> all_to_all(std::span<const Ref> inputs, bool concat = false, OpOptions options = {});
  [[nodiscard]] Result<Work> send(const Ref& input, int destination, std::int64_t tag = 0, OpOptions options = {});
  [[nodiscard]] Result<Work> recv(int source, std::int64_t tag = 0, OpOptions options = {});

  /// Every live seat calls it; seats of equal color (not negative) get a new group, ranked by (key, rank). Blocks.
  [[nodiscard]] Result<Group> split(int color, int key, OpOptions options = {});
  /// A group of these ranks. All of them must call it, and no others. Does not block.
  [[nodiscard]] Result<Group> subgroup(std::span<const int> ranks);
  /// Every live seat calls it after a loss. Then the group works again in a new epoch. Blocks.
  [[nodiscard]] Result<void> reform(OpOptions options = {});
  /// Gives the seat up. Ops that this seat has contributed to still complete.
  Result<void> leave();

  [[nodiscard]] const std::shared_ptr<detail::Seat>& seat() const { return seat_; }

 private:
  std::shared_ptr<detail::Seat> seat_;
};

}  // namespace muster
