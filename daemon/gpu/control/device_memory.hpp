// Memory of a GPU behind a segment. A worker makes it; the daemon has its descriptor, which keeps it whatever becomes
// of the worker. Or a client has allocated it and left it in place: then the daemon has a handle, by which workers open
// it.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <muster/ipc/fd.hpp>
#include <muster/result.hpp>

#include "base/errand.hpp"
#include "memory/backing.hpp"

namespace musterd::gpu {

/// What the GPU and the segment's memory share. Only the control thread touches it.
struct DeviceAllocation {
  SegmentId id;
  muster::Device device;
  std::uint64_t bytes = 0;
  muster::ipc::Fd fd;                                              ///< set once it is made
  std::optional<muster::Error> lost;                               ///< why there is no memory, and never will be
  std::vector<std::function<void(muster::Result<void>)>> waiting;  ///< called once when one of the two is set
  bool is_unwanted = false;                                        ///< it goes as soon as the worker has answered
  std::optional<muster::ipc::InPlaceMemory> in_place;              ///< set if it was left in place; then it has no `fd`
  bool is_open = false;                                            ///< a worker has opened that
  bool is_owner_gone = false;                                      ///< the one that has left it in place
  /// Who is told when no worker has it open any more: one, once it was left in place and somebody asks. To tell takes
  /// no memory.
  struct Closing {
    SegmentId segment;
    std::function<void()> then;
  };
  std::list<Closing> closing;

  [[nodiscard]] bool is_made() const { return is_open || fd; }
  [[nodiscard]] bool is_coming() const { return !is_made() && !lost; }
};

class DeviceMemory final : public SegmentMemory {
 public:
  using Post = std::function<void(Errand)>;
  /// `at_end` is handed to `post` when the memory ends, on whatever thread that happens.
  DeviceMemory(std::shared_ptr<DeviceAllocation> allocation, Post post, Errand at_end)
      : allocation_(std::move(allocation)), id_(allocation_->id), post_(std::move(post)), at_end_(std::move(at_end)) {}
  ~DeviceMemory() override { post_(std::move(at_end_)); }

  [[nodiscard]] SegmentId id() const { return id_; }
  [[nodiscard]] muster::Device device() const { return allocation_->device; }
  [[nodiscard]] int descriptor() const noexcept override { return allocation_->fd.get(); }
  [[nodiscard]] std::span<std::byte> host() const noexcept override { return {}; }
  void close_descriptor() noexcept override {}
  [[nodiscard]] muster::Result<bool> when_made(std::function<void(muster::Result<void>)> then) override;
  [[nodiscard]] bool is_lost() const noexcept override {
    return allocation_->lost.has_value() || allocation_->is_owner_gone;
  }
  [[nodiscard]] const muster::ipc::InPlaceMemory* in_place() const noexcept override {
    return allocation_->in_place ? &*allocation_->in_place : nullptr;
  }
  void lose_owner() noexcept override { allocation_->is_owner_gone = true; }
  void when_closed(std::function<void()> then) override { allocation_->closing.push_back({id_, std::move(then)}); }
  /// The driver has no seals. A process that maps the memory chooses for itself whether it only reads.
  [[nodiscard]] muster::Result<void> seal() override { return {}; }
  [[nodiscard]] muster::Result<void> seal_hard() override;
  [[nodiscard]] bool populate(std::uint64_t, std::uint64_t) noexcept override { return false; }

 private:
  std::shared_ptr<DeviceAllocation> allocation_;
  SegmentId id_;
  Post post_;
  Errand at_end_;
};

}  // namespace musterd::gpu
