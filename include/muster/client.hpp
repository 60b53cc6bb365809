// A Client is this process's connection to its node's daemon. Thread-safe; copies share one connection.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <muster/buffer.hpp>
#include <muster/device.hpp>
#include <muster/elements.hpp>
#include <muster/group.hpp>
#include <muster/options.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>
#include <muster/token.hpp>
#include <muster/types.hpp>
#include <muster/work.hpp>

namespace muster {

namespace detail {
class Connection;  // client/core/connection.hpp
}

class Client {
 public:
  /// Attaches to the daemon. Starts one if there is none and the options allow it; otherwise DaemonUnavailable.
  [[nodiscard]] static Result<Client> connect(ConnectOptions options = {});

  /// Takes a seat. Does not wait for the other ranks.
  [[nodiscard]] Result<Group> join(std::string name, JoinOptions options = {});

  /// Writable memory inside the store. Waits while the store is full; OutOfMemory if it still is at the timeout.
  template <class T>
  [[nodiscard]] Result<Buffer<T>> allocate(Shape shape, Timeout timeout = {}) {
    auto raw = allocate_raw(dtype_of<T>(), std::move(shape), timeout);
    if (!raw) return raw.error();
    return Buffer<T>(std::move(*raw));
  }
  [[nodiscard]] Result<RawBuffer> allocate_raw(DType dtype, Shape shape, Timeout timeout = {});
  /// The same on a device. Invalid if the daemon has no memory there, or if this process can't use that GPU; for pinned
  /// memory, if it can use none.
  template <class T>
  [[nodiscard]] Result<Buffer<T>> allocate(Shape shape, Device device, Timeout timeout = {}) {
    auto raw = allocate_raw(dtype_of<T>(), std::move(shape), device, timeout);
    if (!raw) return raw.error();
    return Buffer<T>(std::move(*raw));
  }
  [[nodiscard]] Result<RawBuffer> allocate_raw(DType dtype, Shape shape, Device device, Timeout timeout = {});
  /// Memory for readers that don't trust this process: seal() unmaps it here and forbids every further write.
  [[nodiscard]] Result<RawBuffer> allocate_hard(DType dtype, Shape shape, Timeout timeout = {});
  /// Seals several buffers as one object. `structure` says how they nest, in the caller's own notation.
  [[nodiscard]] Result<Ref> seal_bundle(std::vector<RawBuffer> buffers, std::string structure);
  /// Copies one array in.
  [[nodiscard]] Result<Ref> put(DType dtype, Shape shape, const void* data, Timeout timeout = {});
  /// The same to a device. To a GPU or to pinned memory, `data` may lie on the host or on any GPU; there, all work of
  /// this process on that GPU is waited for first.
  [[nodiscard]] Result<Ref> put(DType dtype, Shape shape, const void* data, Device device, Timeout timeout = {});
  /// Makes an object of an array that this process has allocated on a GPU, and leaves it there. `owner` keeps its
  /// memory: it is let go of when no other process has it open any more, on any thread that uses this connection, or
  /// when the connection ends. Until then nobody may write there. The object ends with this process: then readers get
  /// ObjectLost, and so do ops that read it. All work of this process on that GPU is waited for first. Invalid if the
  /// driver can't share that memory: it shares that of cudaMalloc(). put() copies it.
  [[nodiscard]] Result<Ref> put_in_place(DType dtype, Shape shape, const void* data, Device device,
                                         std::shared_ptr<const void> owner, Timeout timeout = {});
  template <class T>
  [[nodiscard]] Result<Ref> put(std::span<const T> values, Timeout timeout = {}) {
    return put(dtype_of<T>(), {static_cast<std::int64_t>(values.size())}, values.data(), timeout);
  }
  /// Whether GPUs reach this memory of the host directly. A process pins at most a quarter of the daemon's memory, and
  /// what it maps for reading only if the driver does that; other memory of Device::pinned() works as that of the host.
  [[nodiscard]] static bool is_pinned(const void* address);
  /// Takes a hold of the object that Ref::serialize() named. ObjectLost if it is gone, saying why.
  [[nodiscard]] Result<Ref> deserialize(std::string_view bytes);

  /// Opens a token, under which Ref::keep_for() keeps objects until it ends. `name`: 1 to 256 bytes of UTF-8. Invalid
  /// if this user has an open token of that name.
  [[nodiscard]] Result<Token> open_token(std::string name);
  /// Ends a token that any process of this user opened. Invalid if there is none.
  [[nodiscard]] Result<void> end_token(std::string_view name);

  /// Ops over objects that this process holds. They wait for no other process. Over several GPUs, what they make lies
  /// on that of the first input.
  [[nodiscard]] Result<Work> allreduce_refs(std::span<const Ref> inputs, ReduceOp op = ReduceOp::sum,
                                            OpOptions options = {});
  [[nodiscard]] Result<Work> allgather_refs(std::span<const Ref> inputs, bool stack = false, OpOptions options = {});
  /// inputs[r * ranks + j]: what rank r gives for rank j.
  [[nodiscard]] Result<Work> reduce_scatter_refs(std::span<const Ref> inputs, int ranks, ReduceOp op = ReduceOp::sum,
                                                 OpOptions options = {});
  [[nodiscard]] Result<Work> all_to_all_refs(std::span<const Ref> inputs, int ranks, OpOptions options = {});

  /// Readable when completions may have come; then call poll(). For event loops.
  [[nodiscard]] Result<int> fd() const;
  /// Handles what has come without waiting.
  void poll() const;

  [[nodiscard]] const std::string& socket() const;
  [[nodiscard]] std::uint64_t memory_bytes() const;  ///< the daemon's budget
  [[nodiscard]] bool connected() const;

  explicit Client(std::shared_ptr<detail::Connection> connection) : connection_(std::move(connection)) {}
  [[nodiscard]] const std::shared_ptr<detail::Connection>& connection() const { return connection_; }

 private:
  std::shared_ptr<detail::Connection> connection_;
};

template <class T>
Result<TypedResult<T>> Work::result(Timeout timeout) const {
  const auto begin = std::chrono::steady_clock::now();
  auto found = ref(timeout);
  if (!found) return found.error();
  if (timeout) *timeout -= std::min<std::chrono::nanoseconds>(*timeout, std::chrono::steady_clock::now() - begin);
  auto views = found->get(timeout);
  if (!views) return views.error();
  if (found->leaves() != 1 || found->dtype() != dtype_of<T>())
    return Error(Code::invalid, "the result is not one array of " + std::string(name(dtype_of<T>())),
                 "use ref() or wait()");
  auto& view = views->front();
  const auto span = view.template span<T>();
  Shape shape = view.shape();
  return TypedResult<T>{span, std::move(shape), std::move(view)};
}

}  // namespace muster
