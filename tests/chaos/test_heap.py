"""The daemon charges and bounds what it keeps for clients in its own memory: it refuses clients that want too much, and
its memory stays within a tenth more than its budget."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import struct

import pytest
from chaos_harness import HealthyPair, ask, eventually, wait_empty
from raw_client import (
    ALLREDUCE,
    BARRIER,
    CODES,
    COMBINE,
    CONTRIBUTE,
    CUT_OFF,
    FAILED,
    FLOAT32,
    PROTOCOL,
    RELEASE,
    SCAN,
    SEAL,
    SEAL_FAILED,
    RawClient,
    code_of_failed,
    combine,
    contribute,
    manifest,
    seal,
)

from daemon import Daemon

MIB = 1 << 20
MEMORY = 128 * MIB
LIMIT = MEMORY // 10 * 11
# A sanitizer takes many times the memory, and that memory is not the daemon's: then the limit says nothing.
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
BATCH = 200  # records between two requests: far fewer than fit in the ring


class Cgroup:
    """A memory cgroup below that of this process, of either version. Without a path if it can't be made."""

    def __init__(self, limit: int) -> None:
        own = pathlib.Path("/proc/self/cgroup").read_text()
        paths = {name: path for _, name, path in (line.split(":", 2) for line in own.splitlines())}
        is_old = "memory" in paths
        root = pathlib.Path("/sys/fs/cgroup", "memory" if is_old else ".")
        self.path = root / paths.get("memory", paths.get("", "/")).lstrip("/") / f"muster-test-{os.getpid()}"
        self.peak_file = self.path / ("memory.max_usage_in_bytes" if is_old else "memory.peak")
        try:
            self.path.mkdir()
            (self.path / ("memory.limit_in_bytes" if is_old else "memory.max")).write_text(str(limit))
        except OSError:
            self.close()
            self.path = None

    def prefix(self) -> tuple[str, ...]:
        """Returns the words that start a command in it."""
        return ("sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh") if self.path else ()

    def peak(self) -> int:
        """Returns the peak of its memory; 0 if it is unknown."""
        return int(self.peak_file.read_text()) if self.path and self.peak_file.exists() else 0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.path:
                self.path.rmdir()


def resident(daemon: Daemon) -> int:
    """Returns the daemon's private memory and the shared memory that it maps."""
    return sum(bytes_of(daemon, name) for name in ("RssAnon", "RssShmem"))


def bytes_of(daemon: Daemon, name: str) -> int:
    status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    return int(values[name].split()[0]) << 10


@pytest.fixture
def daemon():
    group = None if SANITIZED else Cgroup(LIMIT)
    prefix = group.prefix() if group else ()
    daemon = Daemon("--memory", str(MEMORY), "--pickle-lease", "0.02", prefix=prefix)
    yield daemon
    print(daemon.output())
    if group:
        assert resident(daemon) < LIMIT
        assert group.peak() <= LIMIT
    daemon.stop()
    if group:
        group.close()


def is_as_before(daemon: Daemon) -> None:
    """Checks that nothing is held for clients that have gone, and that others are served."""
    wait_empty(daemon)
    with HealthyPair(daemon) as pair:
        pair.goes_on()
    wait_empty(daemon)


def is_what_is_charged(daemon: Daemon) -> None:
    """Checks that the daemon's own memory is what is charged plus what it needs for itself."""
    told = ask(daemon, "status")
    print({name: value for name, value in told.items() if "heap" in name}, resident(daemon))
    assert told["heap_used_bytes"] <= told["heap_bytes"]
    # Memory that was just freed goes back a moment later.
    if not SANITIZED:
        eventually(lambda: bytes_of(daemon, "RssAnon") <= told["heap_used_bytes"] + 16 * MIB)


def until_failed(client: RawClient, records, failed: int, batch: int = BATCH) -> tuple[int, str]:
    """Submits records until one fails; returns how many were submitted, and why it failed."""
    records = iter(records)
    count = 0
    while True:
        count += batch
        for kind, body in itertools.islice(records, batch):
            client.submit(kind, body)
        assert client.ask("StatusQuery")[0].name == "StatusReply"
        while (found := client.completion()) is not None:
            if found[0] == failed:
                return count, code_of_failed(found[1])


def make_objects(client: RawClient) -> tuple[int, str]:
    own = client.lease(1 << 16)
    return until_failed(
        client,
        ((SEAL, seal(client.object_id(i), manifest(own, 0, [16]))) for i in itertools.count(1)),
        SEAL_FAILED,
    )


def start_ops(client: RawClient) -> tuple[int, str]:
    """Starts ops in one group after another, until there is no room for an op or a seat."""
    for i in range(1000):
        joined, _ = client.ask("Join", group=f"{client.id} {i}", rank=0, world_size=2, timeout_ms=30_000)
        if joined.name == "Failure":
            return i, CODES[joined.code]
        for first in range(1, 1001, BATCH):
            for work in range(first, first + BATCH):
                client.submit(CONTRIBUTE, contribute(work, joined.seat, kind=BARRIER))
            assert client.survives()
            while (found := client.completion()) is not None:
                if found[0] == FAILED:
                    return i, code_of_failed(found[1])
    raise AssertionError("a million ops were never too much")


def start_ops_with_keys(client: RawClient) -> tuple[int, str]:
    seat = client.join(f"{client.id}", 0, 1024).seat
    return until_failed(
        client,
        ((CONTRIBUTE, contribute(i, seat, kind=BARRIER, key=b"%04096d" % i)) for i in itertools.count(1)),
        FAILED,
        batch=40,
    )


def fail_ops(client: RawClient) -> tuple[int, str]:
    """Starts ops that fail at once and that no other rank calls, until nobody can pay for remembering one more."""
    for i in range(500):
        joined, _ = client.ask("Join", group=f"{client.id} {i}", rank=0, world_size=2, timeout_ms=1000)
        if joined.name == "Failure":
            return i, CODES[joined.code]
        for work in range(BATCH):
            client.submit(CONTRIBUTE, contribute(work + 1, joined.seat, kind=ALLREDUCE))
        assert client.survives()
        while (found := client.completion()) is not None:
            if found[0] == FAILED and (code := code_of_failed(found[1])) == "quota_exceeded":
                return i, code
    raise AssertionError("500 groups of failed ops were never too much")


def make_groups(client: RawClient) -> tuple[int, str]:
    made = 0
    while True:
        joined, _ = client.ask("Join", group=f"{client.id} {made}", rank=0, world_size=1024, timeout_ms=1000)
        if joined.name == "Failure":
            return made, CODES[joined.code]
        made += 1


def fork_with_many_holds(client: RawClient) -> tuple[int, str]:
    made = make_objects(client)
    lines = []
    while True:
        reply, fds = client.ask("Fork")
        lines += fds
        if reply.name == "Failure" or len(lines) == 200:
            break
    client.lines += lines
    return made


ATTACKS = [make_objects, start_ops, start_ops_with_keys, fail_ops, make_groups, fork_with_many_holds]


def attacked_by(daemon: Daemon, attack) -> RawClient:
    client = RawClient(daemon, greet=False)
    client.lines = []
    client.send("Hello", protocol=PROTOCOL, name="hostile", rings=True)
    welcome, fds = client.receive()
    if welcome.name == "Failure":  # there is no room for a connection
        assert CODES[welcome.code] == "quota_exceeded"
        return client
    client.welcomed(welcome, fds)
    count, code = attack(client)
    print(client.id, count, code)
    assert code == "quota_exceeded"
    assert client.survives()
    return client


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_clients_want_kept(attack, daemon):
    # One client leaves enough for others of its user.
    with HealthyPair(daemon) as pair:
        clients = [attacked_by(daemon, attack)]
        pair.goes_on()
    clients += [attacked_by(daemon, attack) for _ in range(3)]
    is_what_is_charged(daemon)
    for client in clients:
        client.close()
        for line in client.lines:
            os.close(line)
    is_as_before(daemon)


@pytest.mark.parametrize("bytes_each", [40_000, 100_000])
def test_what_descriptions_took_is_given_back_with_them(bytes_each, daemon):
    """All but the last one, which lies behind all others."""
    with RawClient(daemon) as client:
        own = client.lease(1 << 16)
        plain = manifest(own, 0, [1])
        large = plain[:8] + bytes_each.to_bytes(4, "little") + plain[12:] + b"s" * bytes_each
        ids = [client.object_id(i) for i in range(1, 100 * MIB // bytes_each)]
        for object_id in ids:
            client.submit_in_parts(SEAL, seal(object_id, large))
        held = bytes_of(daemon, "RssAnon")
        assert SANITIZED or held > 90 * MIB
        for object_id in ids[:-1]:
            client.submit(RELEASE, struct.pack("<Q", object_id))
        assert client.survives()
        if not SANITIZED:
            eventually(lambda: bytes_of(daemon, "RssAnon") < 16 * MIB, True)
    is_as_before(daemon)


def test_replies_that_nobody_reads(daemon):
    """Many clients ask for descriptions of a megabyte over and over, and don't read the replies."""
    with RawClient(daemon) as maker:
        own = maker.lease(1 << 16)
        plain = manifest(own, 0, [1])
        size = MIB - 4096  # nearly the largest that is allowed
        large = plain[:8] + size.to_bytes(4, "little") + plain[12:] + b"s" * size
        maker.submit_in_parts(SEAL, seal(maker.object_id(1), large))
        incarnation = int(ask(daemon, "status")["incarnation"])
        askers = [RawClient(daemon) for _ in range(40)]
        for asker in askers:
            for _ in range(30):
                with contextlib.suppress(*CUT_OFF):
                    asker.send("Lookup", capability=(1, 2), object=maker.object_id(1), incarnation=incarnation)
            # A client that reads is served, unless all memory of its user is taken.
            assert asker is not askers[0] or maker.ask("Describe", object=maker.object_id(1))[0].name == "Object"
        is_what_is_charged(daemon)
        for asker in askers:
            asker.close()
    is_as_before(daemon)


def large_manifest(segment: int, leaves: int, dims: int) -> bytes:
    head = struct.pack("<IIIIII", leaves, leaves * dims, 0, 0, 0, 0)
    leaf = struct.pack("<QIBBH", 0, segment, FLOAT32, dims, 0)
    return head + leaf * leaves + struct.pack("<q", 1) * (leaves * dims)


def fill(daemon: Daemon, client: RawClient) -> None:
    """Leases all memory that is left, and waits until the daemon has it."""
    told = ask(daemon, "status")
    left = told["memory_bytes"] - told["memory_used_bytes"]
    while (reply := client.ask("Lease", bytes=left, timeout_ms=0))[0].name == "Failure":
        left -= MIB
    os.close(reply[1][0])
    assert client.ask("Mapped", segment=reply[0].segment)[0].name == "Ok"
    if not SANITIZED:
        eventually(lambda: bytes_of(daemon, "RssShmem") >= left - MIB)


@pytest.mark.parametrize(("leaves", "dims"), [(16_000, 6), (2_000, 62)], ids=["arrays", "dimensions"])
def test_the_largest_descriptions_in_a_full_store(leaves, dims, daemon):
    with RawClient(daemon) as client:
        large = large_manifest(client.lease(1 << 16), leaves, dims)
        object_id = client.object_id(1)
        client.submit_in_parts(SEAL, seal(object_id, large))
        fill(daemon, client)
        for _ in range(5):
            # Both are answers. The daemon must not end the connection.
            assert client.ask("Describe", object=object_id)[0].name in ("Object", "Failure")
        for work, (kind, ranks) in enumerate([(ALLREDUCE, 2), (SCAN, 3), (ALLREDUCE, 2), (SCAN, 3)]):
            client.submit(COMBINE, combine(work + 1, kind, ranks, [object_id] * ranks))
        assert client.survives()
    is_as_before(daemon)


def test_completions_that_nobody_reads(daemon):
    """A client that never reads them is cut off before they take memory of others."""
    with HealthyPair(daemon) as pair:
        with RawClient(daemon) as client:
            seat = client.join("unread", 0, 1).seat
            work = itertools.count(1)
            reply = None
            while reply is None or reply.name == "StatusReply":
                for _ in range(BATCH):
                    client.submit(CONTRIBUTE, contribute(next(work), seat, kind=ALLREDUCE))
                with contextlib.suppress(*CUT_OFF):  # cut off already, with a reason
                    client.send("StatusQuery")
                reply, _ = client.receive()
            assert CODES[reply.code] == "quota_exceeded"
            assert "completions" in reply.reason
        pair.goes_on()
    is_as_before(daemon)


def lease_until_refused(client: RawClient) -> str:
    """Leases segments of one page, each mapped by the daemon, until one is refused."""
    while True:
        answer, fds = client.ask("Lease", bytes=4096, timeout_ms=0)
        if answer.name == "Failure":
            return CODES[answer.code]
        os.close(fds[0])
        assert client.ask("Mapped", segment=answer.segment)[0].name == "Ok"


def fork_until_refused(client: RawClient) -> str:
    while True:
        answer, fds = client.ask("Fork")
        client.lines += fds
        if answer.name == "Failure":
            return CODES[answer.code]


@pytest.mark.parametrize(("act", "large"), [(lease_until_refused, 104 * MIB), (fork_until_refused, 120 * MIB)])
def test_what_the_kernel_keeps_for_small_things(act, large, many_descriptors, daemon):
    """The store is nearly full, so its cgroup has no room for uncharged memory."""
    with RawClient(daemon) as holder:
        holder.lease(large)
        # The daemon touches all of it.
        eventually(lambda: bytes_of(daemon, "RssShmem") >= large, True)
        clients = [RawClient(daemon) for _ in range(4)]
        for client in clients:
            client.lines = []
            assert act(client) == "quota_exceeded"
        assert holder.survives()
        for client in clients:
            client.close()
            for line in client.lines:
                os.close(line)
    is_as_before(daemon)
