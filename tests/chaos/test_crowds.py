"""Too many clients, too much data, too slow clients: latecomers get an error, and the others go on."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import struct
import threading

import pytest
from chaos_harness import (
    PATIENCE_S,
    WARM,
    ask,
    eventually,
    is_forgotten,
    is_stopped,
    wait_forgotten,
)
from flat import frame
from raw_client import (
    ALLGATHER,
    BARRIER,
    CODES,
    COMBINE,
    CONTRIBUTE,
    CUT_OFF,
    DONE,
    FAILED,
    PROTOCOL,
    RELEASE,
    RING_BYTES,
    SEAL,
    RawClient,
    code_of_failed,
    combine,
    contribute,
    manifest,
    seal,
)

from daemon import ranks

MIB = 1 << 20


def with_daemon(**options):
    return pytest.mark.parametrize("daemon", [options], indirect=True)


def close_all(clients: list[RawClient]) -> None:
    for client in clients:
        client.close()


@with_daemon(memory="2GiB")
def test_a_thousand_idle_connections(many_descriptors, daemon, pair):
    # The daemon needs six descriptors for each client. A host with a low hard limit gets a smaller crowd.
    count = min(1000, many_descriptors // 8)
    clients = [RawClient(daemon) for _ in range(count)]
    pair.goes_on()
    assert len(ask(daemon, "status")["clients"]) == count + 2
    # The other clients are served as well as before.
    for client in clients[::100]:
        assert client.survives()
    close_all(clients)
    is_forgotten(daemon, clients[-1].id)
    pair.goes_on()


def init_in_vain(_rank):
    import muster

    try:
        muster.init()
    except muster.Error as error:
        return type(error).__name__, str(error)
    return "connected", ""


def one_process(daemon, function, *arguments):
    """Returns the function's result in a fresh process."""
    with ranks(daemon, function, 1, *arguments, context=WARM) as (_, results):
        _, good, value = results.get(timeout=PATIENCE_S)
    assert good, value
    return value


def connect_until_refused(daemon) -> tuple[list[RawClient], str, str]:
    """Returns the accepted connections, and code and message of the first refusal."""
    taken = []
    for _ in range(100):
        client = RawClient(daemon, greet=False)
        with contextlib.suppress(*CUT_OFF):  # refused already
            client.send("Hello", protocol=PROTOCOL, name="hostile")
        answer, fds = client.receive()
        for fd in fds:
            os.close(fd)
        if answer.name != "Welcome":
            client.close()
            message = answer.message if answer.name == "Failure" else answer.reason
            return taken, CODES[answer.code], message
        taken.append(client)
    raise AssertionError("nobody is refused")


@pytest.mark.parametrize("daemon", [{"fds_max": 32}, {"fds_max": 48}], indirect=True)
def test_a_daemon_that_may_open_no_more_files(daemon, pair):
    taken, code, message = connect_until_refused(daemon)
    assert code == "quota_exceeded"
    assert "file descriptors" in message
    # A process of libmuster gets the same error, and does not start a daemon of its own.
    assert one_process(daemon, init_in_vain)[0] == "QuotaExceeded"
    pair.goes_on()
    for client in taken:
        assert client.survives()
    close_all(taken)


@with_daemon(fds_max=40)
def test_connections_without_a_word(daemon, pair):
    """They cost descriptors, and are charged for them even before they say anything."""
    silent = [RawClient(daemon, greet=False) for _ in range(40)]
    # The last one is refused in any case, after the daemon has handled all those before it.
    code, reason = silent[-1].farewell()
    assert code == "quota_exceeded"
    assert "file descriptors" in reason
    assert "refused a connection: " in daemon.output()
    pair.goes_on()
    close_all(silent)


@with_daemon(fds_max=64)
def test_descriptors_that_come_along_are_not_kept(daemon, pair):
    with RawClient(daemon) as client:
        for _ in range(100):
            with contextlib.suppress(PermissionError, *CUT_OFF):  # the kernel refuses it, or the daemon on an older one
                client.send_bytes(frame("StatusQuery"), fds=[0, 1, 2])
    with RawClient(daemon) as client:
        assert client.survives()


@with_daemon(fds_max=64)
def test_life_lines_are_charged_and_end(daemon, pair):
    with RawClient(daemon) as client:
        own = client.lease(1 << 16)
        client.submit(SEAL, seal(client.object_id(1), manifest(own, 0, [16])))
        lines = []
        for _ in range(100):
            reply, fds = client.ask("Fork")
            lines += fds
            if reply.name == "Failure":
                break
        assert CODES[reply.code] == "quota_exceeded"
        assert len(lines) > 3
        pair.goes_on()
    # The client has gone; its heirs hold what it held.
    eventually(lambda: "forked child" in str(ask(daemon, "ls")))
    for line in lines:
        os.close(line)
    eventually(lambda: "forked child" in str(ask(daemon, "ls")), False)


@with_daemon(maps_max=64)
def test_a_client_that_makes_as_many_segments_as_it_can(daemon, pair):
    """The daemon maps each of them. A process may use half of the daemon's mappings, which are 64."""
    with RawClient(daemon) as client:
        for made in range(64):  # noqa: B007
            reply, fds = client.ask("Lease", bytes=4096, timeout_ms=PATIENCE_S * 1000)
            for fd in fds:
                os.close(fd)
            if reply.name == "Failure":
                break
            assert client.ask("Mapped", segment=reply.segment)[0].name == "Ok"
        assert CODES[reply.code] == "quota_exceeded"
        wanted = f"client {client.id} holds 32 of at most 32 memory mappings; the request asks for 1 more"
        assert wanted in reply.message
        assert "vm.max_map_count" in reply.hint
        assert made == 31  # the 32nd mapping is that of its rings
        pair.goes_on()
        assert client.survives()
        assert ask(daemon, "status")["maps_used"] > 32
    is_forgotten(daemon, client.id)


@pytest.mark.parametrize("daemon", [{}, {"maps_max": 1 << 30}], indirect=True)
def test_clients_leave_some_of_its_mappings_to_the_daemon(daemon):
    limit = int(pathlib.Path("/proc/sys/vm/max_map_count").read_text())
    assert ask(daemon, "status")["maps_max"] == max(limit - 8192, limit // 4)


@with_daemon(memory="1GiB")
def test_more_seats_than_one_client_may_have(daemon, pair):
    with RawClient(daemon) as client:
        for number in range(10_000):
            reply, _ = client.ask("Join", group=f"g{number}", rank=0, world_size=2, timeout_ms=1000)
            if reply.name == "Failure":
                break
        assert CODES[reply.code] == "quota_exceeded"
        assert f"{number} of at most {number} seats" in reply.message
        pair.goes_on()
    is_forgotten(daemon, client.id)


def put_in_vain(_rank, size):
    import muster
    import numpy as np

    with pytest.raises(muster.OutOfMemory) as error:
        muster.put(np.zeros(size, np.uint8), timeout=0.2)
    return str(error.value)


def put(_rank, size):
    import muster
    import numpy as np

    return muster.put(np.zeros(size, np.uint8), timeout=PATIENCE_S).nbytes


def test_a_full_store_says_who_holds_it(daemon, pair):
    with RawClient(daemon) as client:
        while client.ask("Lease", bytes=16 * MIB, timeout_ms=0)[0].name == "Segment":
            pass
        message = one_process(daemon, put_in_vain, 128 * MIB)
        held = re.search(rf"hostile \(pid {os.getpid()}\): ([\d.]+) MiB", message)
        assert held, message
        assert float(held.group(1)) > 64
        pair.goes_on()
    assert one_process(daemon, put, 128 * MIB) == 128 * MIB


def test_requests_that_wait_are_bounded(daemon, pair):
    with RawClient(daemon) as client:
        with contextlib.suppress(*CUT_OFF):  # cut off already
            for _ in range(300):
                client.send("Lease", bytes=240 * MIB, timeout_ms=3_600_000)
        code, reason = client.farewell()
        assert code == "quota_exceeded"
        assert "unanswered requests" in reason
        is_forgotten(daemon, client.id)


def barrier(_rank):
    import muster

    with muster.group("stopped", rank=0, world_size=2, timeout=PATIENCE_S) as group:
        group.barrier().result()
    return True


@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
def test_a_client_that_is_stopped_in_an_op(then, daemon, pair):
    with RawClient(daemon) as client, ranks(daemon, barrier, 1, context=WARM) as (processes, results):
        seat = client.join("stopped", 1, 2).seat
        pid = processes[0].pid

        def contributed():
            (group,) = [one for one in ask(daemon, "groups")["groups"] if one["name"] == "stopped"]
            return group["seats"][0]["contributed"]

        eventually(contributed, 1)
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: is_stopped(pid))
        pair.goes_on()
        # The contribution counts, whatever the client does later.
        client.submit(CONTRIBUTE, contribute(1, seat, kind=BARRIER))
        client.wait_completion(DONE)
        os.kill(pid, then)
        if then == signal.SIGCONT:
            assert results.get(timeout=PATIENCE_S)[1:] == (True, True)
        else:
            wait_forgotten(daemon, pid)


def test_a_flood_of_records(daemon, pair):
    """Sends records without end, and a request after each full ring of them."""
    with RawClient(daemon) as client:
        flood = client.record(RELEASE, b"") * (RING_BYTES // 8)
        over = threading.Event()

        def pour() -> None:
            while not over.is_set():
                client.write(flood)
                client.publish(client.tail)
                assert client.survives()

        thread = threading.Thread(target=pour)
        thread.start()
        try:
            pair.goes_on(50)
        finally:
            over.set()
            thread.join()


def gather_many(_rank, count):
    import muster
    import numpy as np

    ref = muster.put(np.arange(4))
    values = muster.allgather_refs([ref] * count).result()
    return len(values), all((value == np.arange(4)).all() for value in values)


def test_an_outcome_of_many_objects(daemon, pair):
    assert one_process(daemon, gather_many, 1024) == (1024, True)
    pair.goes_on()


def test_more_objects_than_an_outcome_can_hold(daemon, pair):
    """The op fails with a typed error, and the client goes on."""
    with RawClient(daemon) as client:
        own = client.lease(1 << 16)
        held = client.object_id(1)
        client.submit(SEAL, seal(held, manifest(own, 0, [16])))
        for ranks_, each in ((100_000, 1), (1, 5000)):
            body = combine(1, ALLGATHER, ranks_, [held] * ranks_ * each)
            client.submit_in_parts(COMBINE, body)
            assert code_of_failed(client.wait_completion(FAILED)) == "invalid"
        pair.goes_on()
        assert client.survives()


NAMES = {
    "lines": "x\n2026-01-01 00:00:00.000 error somebody else",
    "a terminal's": "\x1b[2J\x1b]0;owned\x07",
    "zeros": "a\0b",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_text(name, daemon, pair):
    with RawClient(daemon, greet=False) as client:
        client.greet(NAMES[name])
        listed = [one["name"] for one in ask(daemon, "status")["clients"] if one["id"] == client.id]
        assert listed == [f"pid {os.getpid()}"]
        client.send_bytes(struct.pack("<Q", 1))
        client.farewell()
        assert NAMES[name] not in daemon.output()


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", b"g\n", b"\xc0\x80", b"\xed\xa0\x80", "g\u202e".encode(), "g\u2028".encode()]
)
def test_a_group_whose_name_is_no_text(raw, daemon, pair):
    with RawClient(daemon) as client:
        assert client.fails("Join", group=raw, rank=0, world_size=1)[0] == "invalid"
        # An op's key must be text, too: other members see it.
        seat = client.join("keys", 0, 1).seat
        client.submit(CONTRIBUTE, contribute(1, seat, kind=BARRIER, key=raw))
        assert code_of_failed(client.wait_completion(FAILED)) == "invalid"
