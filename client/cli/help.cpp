// Keys of --json are a contract: add freely, never rename.
#include "help.hpp"

namespace muster::cli {

namespace {

constexpr std::string_view exit_statuses =
    "Exit status: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 timeout, 5 out of memory, 6 peer lost.\n";

constexpr std::string_view start_footer = R"(
The options are those of musterd. They override the environment (MUSTER_MEMORY for --memory) and the file of --config.
A daemon that runs already stays as it is; if it has another --memory, --pickle-lease or --idle-exit, that is an error.

--json: started, pid, socket, version, memory_bytes, made_folder (for the socket; empty if it was there already), log

Example:
  muster start --memory 4GiB
)";

constexpr std::string_view stop_footer = R"(
The daemon tells its clients why. Ops that they wait for end with DaemonUnavailable. All objects in the store are gone.
)";

constexpr std::string_view run_footer = R"(
muster run -n N [OPTIONS] -- PROGRAM [ARGUMENTS...]

Each rank gets MUSTER_RANK, MUSTER_WORLD_SIZE, MUSTER_LOCAL_RANK, MUSTER_GROUP and MUSTER_SOCKET; of torchrun's:
RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; and, unless they are set,
PYTHONUNBUFFERED=1 and OMP_NUM_THREADS=cores/ranks. A daemon is started if there is none.
Lines of output get the prefix [rank]. If stdout or stderr is a terminal, rank 0 gets a terminal of the same size for
it. Its output is shown unchanged, without a prefix, so progress bars work. With `| cat` all ranks get pipes.
Rank 0 reads stdin unless that is a terminal; the others read nothing.
Signals go to all ranks. A second Ctrl-C ends ranks that ignore the first; a third kills them.
The first rank that fails ends all: their process groups get SIGTERM, and SIGKILL after the grace period.
With --keep-going the others go on, as groups with on_loss="shrink" can, until all have ended or you press Ctrl-C.
The exit status is that of the rank that failed first, or 128 + its signal.

Examples:
  muster run -n 4 -- python train.py --epochs 10
  muster run -n 2 --group eval -- ./evaluate
)";

constexpr std::string_view status_footer = R"(
--json: version, pid, uptime_s, socket, incarnation, log, memory_bytes, memory_used_bytes, memory_peak_bytes,
  heap_bytes, heap_used_bytes (of the daemon's own memory: limit, charged),
  maps_max, maps_used (of the daemon's memory mappings, one for each segment and each client: limit, charged), objects,
  segments, groups, lanes, huge_pages, simd, nccl_so, nccl_wheel (as the daemon was started), waiting_for_memory,
  ops_done, ops_failed, ops_in_flight, bytes_deposited, bytes_copied, bytes_reduced,
  gpus: [device, memory_bytes (the budget), memory_used_bytes, nccl_bytes (beside the budget)], users_total,
  users (those that hold something, at most 100): [name, memory_bytes, peak_bytes, objects, fds, in_flight, maps],
  clients: [id, name, pid, uid, memory_bytes, objects, held, in_flight, idle_s, heap_bytes]
)";

constexpr std::string_view list_footer = R"(
--json: total, objects: [id, bytes, leaves, dtype, shape, device, maker, maker_pid, holders, in_ops, pinned_s, age_s,
  pins_bytes]
  pins_bytes: the memory that the object alone keeps: segments that contain nothing else, and at least its own bytes
  pinned_s: how long a pickled ref still keeps the object although nobody holds it
)";

constexpr std::string_view groups_footer = R"(
--json: total, groups: [name, epoch, world_size, on_loss, timeout_ms, state, ops_done, ops_failed, ops_in_flight,
  seats: [rank, client, pid, state, contributed]]
)";

constexpr std::string_view doctor_footer = R"(
ok: nothing is wrong. warn: Muster works, but slower or with less. fail: Muster can't work; the exit status is 1.
A process of its own asks for GPUs: a driver that hangs or crashes is reported. A machine without a GPU is well.

--json: failed, warnings, checks: [name, health, found, mend]
)";

constexpr std::string_view bench_footer = R"(
For each size there are -w rounds to warm up, then -i rounds that are timed. In each round every rank fills its input
with fresh values, and all meet in a barrier. Each rank's time runs from its contribution until it can read its result.
Results are checked after all have stopped their clocks. A round's time is that of the slowest rank. Sizes are one
rank's input. algbw and busbw are those of nccl-tests (for allgather and gather algbw counts all ranks' inputs). #wrong
counts wrong elements; a single one makes the exit status 1. If other processes used much of the cores' time meanwhile,
a last line says so.

--json prints one object per size and line: system, client, op, variant, ranks, bytes, median_us, min_us, p99_us, cpu_us
  (of all ranks and the daemon, per round), gbps (algbw), busbw_gbps, count, dtype, redop, wrong,
  others_cpu (the part of the cores' time that other processes used since the first round, 0 to 1), busy (whether that
  is much); both are null while less than 0.2 s were measured

Example:
  muster bench allreduce -n 4 -b 1K -e 64M -f 4
)";

std::string_view footer_of(std::string_view command) {
  if (command == "start") return start_footer;
  if (command == "stop") return stop_footer;
  if (command == "run") return run_footer;
  if (command == "status") return status_footer;
  if (command == "ls") return list_footer;
  if (command == "groups") return groups_footer;
  if (command == "doctor") return doctor_footer;
  return bench_footer;
}

}  // namespace

std::string main_help() {
  return R"(muster: a collective object store in memory; one daemon per node, arrays shared without copies

Usage: muster COMMAND [OPTIONS]          muster help COMMAND says more

First steps:
  muster doctor                          check what this machine offers, and what to mend
  muster run -n 4 -- python train.py     start four ranks of a program, and a daemon if needed

Daemon:
  start     start this node's daemon in the background
  stop      end it
  status    its memory, clients and counters
Ranks:
  run       start n ranks of a program on this node
  groups    groups, their seats and ops
Store:
  ls        objects: sizes, holders, ages
Machine:
  doctor    check kernel, limits, memory, CPU, GPUs and daemon; say how to mend problems
  bench     measure a collective, as nccl-tests do, and check every result

Options:
  -h, --help     print this and exit
  -V, --version  print the version and exit

)" + std::string(exit_statuses);
}

std::string help_footer(std::string_view command) { return std::string(footer_of(command)); }

}  // namespace muster::cli
