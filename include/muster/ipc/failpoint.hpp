// Failpoints: named places where a test makes a process die or stop. All of them are listed here and nowhere else, so
// that a test can walk the list. Without MUSTER_FAILPOINTS at compile time they are nothing.
//
// MUSTER_FAILPOINT=name[:count]=kill|stop|exit   at the count-th hit (without a count, the first) the process gets
//                                                SIGKILL or SIGSTOP, or ends with status 0 and no farewell
// MUSTER_FAILPOINT_LOG=file                      each process appends every name once, at its first hit
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

// A client's life, in its order.
#define MUSTER_FAILPOINT_LIST(X)                                                        \
  X(connected)             /* the daemon has welcomed the client                     */ \
  X(forking)               /* before fork, the daemon holds what the child inherits  */ \
  X(leased)                /* a segment's fd has come, nothing is mapped yet         */ \
  X(mapped)                /* the segment is mapped, the daemon has sealed it        */ \
  X(sealed)                /* an object's record is written, perhaps not yet read    */ \
  X(pinned)                /* a record that keeps a pickled object is written        */ \
  X(joining)               /* a seat was asked for, no reply yet                     */ \
  X(joined)                /* the seat is taken                                      */ \
  X(contributed)           /* a contribution is written, the doorbell not yet rung   */ \
  X(contributed_signalled) /* the same, after the doorbell                           */ \
  X(waiting)               /* about to sleep until an outcome comes                  */ \
  X(completed)             /* an outcome was read                                    */ \
  X(result_mapped)         /* the segment of a result is mapped                      */ \
  X(lookup)                /* an object was asked for by a pickled ref, no reply yet */ \
  X(released)              /* a record that gives holds back is written              */ \
  X(leaving)               /* about to give a seat up                                */

namespace muster::ipc {

#define MUSTER_FAILPOINT_ENUMERATOR(name) name,
enum class Failpoint : unsigned char { MUSTER_FAILPOINT_LIST(MUSTER_FAILPOINT_ENUMERATOR) };
#undef MUSTER_FAILPOINT_ENUMERATOR

#define MUSTER_FAILPOINT_NAME(name) std::string_view(#name),
inline constexpr std::array failpoint_names{MUSTER_FAILPOINT_LIST(MUSTER_FAILPOINT_NAME)};
#undef MUSTER_FAILPOINT_NAME

/// Does what the environment variables say. If they can't be understood, the process ends with status 2.
void hit(Failpoint failpoint);

}  // namespace muster::ipc

#ifdef MUSTER_FAILPOINTS
#define MUSTER_FAILPOINT(name) ::muster::ipc::hit(::muster::ipc::Failpoint::name)
#else
#define MUSTER_FAILPOINT(name) static_cast<void>(::muster::ipc::Failpoint::name)
#endif
