// A second process, which has a context of its own and does what it is told: see peer_main.cpp.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace conformance {

enum class Op : std::uint32_t {
  uninitialized,   // before cuInit: the code of the call number `a`
  init,            // cuInit, and the primary context of device `a`
  import,          // the descriptor `fd` has `a` bytes; maps it with the rights `b`
  unimport,        // unmaps and releases what `import` made
  create,          // makes and maps `a` bytes
  allocate,        // cuMemAlloc of `a` bytes
  open_memory,     // cuIpcOpenMemHandle of `payload`
  close_memory,    // cuIpcCloseMemHandle
  read,            // the byte at offset `a` of the memory
  write,           // the byte at offset `a` becomes `b`
  set_access,      // the memory's rights become `a`, for the device `b` after its own
  count_devices,   // cuDeviceGetCount
  allocate_more,   // a cuMemAlloc of one byte, given back: shows whether the context is broken
  reset,           // cuDevicePrimaryCtxReset and cuDevicePrimaryCtxRetain
  memory_handle,   // cuIpcGetMemHandle; the reply's payload is the handle
  free,            // cuMemFree
  create_fabric,   // like `create`, for FABRIC handles; the reply's payload is the handle
  import_fabric,   // like `import`, of the handle in `payload`
  call_in_stream,  // the code that cuMemAlloc gives in a host function
  fork_and_stay,   // forks; the child stays until `end`
  name,            // cuDeviceGetName of device `a`, in the reply's payload
  total,           // cuDeviceTotalMem of device `a`
  open_event,      // cuIpcOpenEventHandle of `payload`
  record_event,    // cuEventRecord, and waits for it
  query_event,     // cuEventQuery
  destroy_event,   // cuEventDestroy
  fork_and_count,  // cuDeviceGetCount in the child of a fork
  touch_on_host,   // host code reads the memory's first byte; `value` is the signal that this gave
  launch,          // runs the kernel store_value at offset `a` with the value `b`, and synchronizes
  end,             // gives everything up, and ends

  // NCCL, see nccl_peer.cpp. A reply's code is an ncclResult_t.
  nccl_unique_id,    // ncclGetUniqueId; the reply's payload is the id
  nccl_init,         // a communicator that isn't blocking, with `a` ranks, as rank `b`, by the id in `payload`
  nccl_init_odd,     // like `nccl_init`, of one rank; the configuration has `a` bytes more, and is `b` versions newer
  nccl_settle,       // waits as long as the communicator is in progress; the code is its state then
  nccl_state,        // ncclCommGetAsyncError; the code is the state
  nccl_add,          // an allreduce of `a` floats with the value whose bits are `b`; in progress when it returns
  nccl_add_nowhere,  // an allreduce in memory that isn't there
  nccl_send,         // sends a float to rank `a`
  nccl_receive,      // receives a float from rank `a`
  nccl_is_idle,      // `value` is whether the stream is done
  nccl_wait,         // waits for the stream; the code is the CUresult, `value` the bits of the first float
  nccl_finalize,     // and waits
  nccl_destroy,
  nccl_abort,
  nccl_shrink,  // without rank `a`, with the flags `b`; the new communicator replaces the one before, which is aborted
  nccl_two_alone,   // one thread has two communicators, and calls for one after the other, not in a group
  nccl_memory,      // ncclMemAlloc, ncclCommRegister; gives neither back
  nccl_give_back,   // what `nccl_memory` got
  nccl_last_error,  // ncclGetLastError, in the reply's payload
};

struct Request {
  Op op = Op::init;
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  unsigned char payload[128] = {};
};

struct Reply {
  int code = 0;  // CUresult
  std::uint64_t value = 0;
  unsigned char payload[128] = {};
};

class Peer {
 public:
  /// Starts the process; it has called cuInit, and has the primary context of the device, unless `device` < 0.
  explicit Peer(int device = 0);
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer();

  Reply ask(const Request& request, int fd = -1);
  Reply ask(Op op, std::uint64_t a = 0, std::uint64_t b = 0) { return ask(Request{op, a, b, {}}); }
  /// The two halves of `ask`.
  void tell(const Request& request, int fd = -1);
  Reply hear();
  /// Whether there is an answer within this time.
  [[nodiscard]] bool answers(int milliseconds) const;
  int code(Op op, std::uint64_t a = 0, std::uint64_t b = 0) { return ask(op, a, b).code; }
  /// Ends the process with SIGKILL.
  void kill();
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  int socket_ = -1;
  pid_t pid_ = -1;
};

/// One message of a socket, with a descriptor or without. False if the other side has gone.
bool send_message(int socket, const void* bytes, std::size_t size, int fd);
bool receive_message(int socket, void* bytes, std::size_t size, int* fd);

}  // namespace conformance
