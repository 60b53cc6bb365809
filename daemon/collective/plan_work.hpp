// The part of a planner that makes results: outputs, and the folds, copies and exchanges that fill them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <muster/device.hpp>
#include <muster/ipc/manifest.hpp>
#include <muster/ipc/small_vector.hpp>
#include <muster/result.hpp>

#include "collective/contribution.hpp"
#include "collective/exchange.hpp"
#include "collective/plan.hpp"

namespace musterd {

/// The inputs of all ranks that have the same index, in rank order.
using Column = muster::ipc::SmallVector<const Input*, 8>;

/// All memory of the host counts as one device.
[[nodiscard]] muster::Device counted(muster::Device device);
/// "cuda:0, cuda:1 and cuda:3"
[[nodiscard]] std::string devices_text(std::span<const muster::Device> devices);

class PlanWork {
 public:
  /// Results are made on the plan's devices, of arrays that lie there: those of each contributor at one of `homes`.
  PlanWork(const Op& op, Plan& plan, std::span<const muster::Device> homes);

  /// Reserves room for all that is to come.
  void expect(std::size_t arrays_read, std::size_t arrays_made, std::size_t outputs);

  // Each returns the index of an output. An error is kept; what is planned after it does not count.

  /// What is like `from`, and copied from it.
  std::size_t copied(const Input& from);
  /// The fold of the inputs, which all lie on one device.
  std::size_t folded(const Column& inputs);
  /// The last `prefixes` prefixes of the fold: returns the first of as many outputs. That of each contributor is on one
  /// of these devices.
  std::size_t scanned(const Column& inputs, std::size_t prefixes, std::span<const muster::Device> devices);
  /// The inputs along a new axis 0.
  std::size_t stacked(const Column& inputs, muster::Device device);
  /// The inputs, joined along their axis 0.
  std::size_t joined(const Column& inputs, muster::Device device);
  /// The reduction of inputs that lie on several devices: one output on each of them. Returns the first one; the others
  /// follow in the order of the plan's devices.
  std::size_t reduced_everywhere(const Column& inputs);
  /// The same with an output on one device only.
  std::size_t reduced_on(const Column& inputs, muster::Device device);

  [[nodiscard]] std::size_t index_of(muster::Device device) const { return index_of_[device.index]; }
  [[nodiscard]] std::optional<muster::Error> take_error() { return std::move(error_); }

 private:
  /// Where an array of a result begins.
  struct Spot {
    std::size_t output = 0;
    std::uint64_t offset = 0;
  };
  /// Nothing where no result is made.
  using Spots = std::vector<std::optional<Spot>>;
  std::size_t add_output(const muster::ipc::Manifest& like, muster::Device device);
  std::optional<Spot> add_leaf(std::size_t output, muster::DType dtype, std::span<const std::int64_t> shape);
  std::optional<Spot> add_reduced(std::size_t output, const muster::ipc::Manifest& like, std::size_t leaf);
  void append_parts(const Column& inputs, std::size_t leaf, std::optional<Spot> to);
  void append_copy(const Place& from, std::uint64_t bytes, Spot& to);
  void add_fold(const Column& inputs, std::size_t leaf, Spot to, std::size_t prefixes, std::uint32_t divisor = 0);
  [[nodiscard]] Spot scratch(std::size_t device, std::uint64_t bytes);
  void refuse_places(muster::Device one, muster::Device other);
  std::nullopt_t refuse_size();

  // Over several devices: see plan_devices.cpp.
  [[nodiscard]] std::vector<Column> by_device(const Column& inputs) const;
  void add_reduction(std::span<const Column> inputs, std::size_t leaf, const Spots& to, std::uint16_t root);
  void add_exchange(std::span<const Column> inputs, std::size_t leaf, const Spots& to, std::uint16_t root,
                    const Exchanged& exchanged);
  void add_reduction_by_transfers(std::span<const Column> inputs, std::size_t leaf, const Spots& to);
  void add_scan_by_transfers(const Column& inputs, std::size_t leaf, Spot to, std::span<const muster::Device> devices,
                             std::size_t skipped);
  [[nodiscard]] std::uint32_t next_last_input() const;
  [[nodiscard]] Source brought(const Source& source, std::size_t from, std::size_t to, std::uint64_t bytes);
  void add_transfer(const Source& source, std::size_t from, std::size_t to, Spot spot, std::uint64_t bytes);
  void add_last_fold(Fold fold, Spot to);

  const Op& op_;
  Plan& plan_;
  std::span<const muster::Device> homes_;
  muster::ReduceOp reduce_op_;
  std::size_t arrays_read_ = 0;
  std::size_t arrays_made_ = 0;
  std::array<std::uint8_t, muster::gpus_max> index_of_{};  ///< of the plan's devices, by number
  std::vector<std::optional<std::size_t>> scratch_;        ///< for each device, the output that nobody gets
  std::optional<muster::Error> error_;
};

}  // namespace musterd
