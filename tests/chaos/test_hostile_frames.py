"""Whatever a client sends over the socket, it gets a typed error or its connection ends; nobody else notices."""

from __future__ import annotations

import os
import random
import struct

import pytest
from chaos_harness import ask, eventually, is_forgotten
from flat import BODIES, frame
from raw_client import CODES, CONTRIBUTE, PROTOCOL, SEAL, RawClient

SEED = 20


def expect_farewell(daemon, pair, client: RawClient, code: str, what: str) -> None:
    """The client learns why it is cut off, the log says who and why, and the daemon keeps nothing of it."""
    told, reason = client.farewell()
    assert (told, what in reason) == (code, True), reason
    assert f"client {client.id}, hostile (pid {os.getpid()}): " in daemon.output()
    assert reason in daemon.output()
    is_forgotten(daemon, client.id)
    pair.goes_on()


def garbage(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


STATUS = frame("StatusQuery")
NOT_FRAMES = {
    "garbage": garbage(SEED, 300),
    "a byte": b"\0",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "a truncated frame": STATUS[:-8],
    "half a frame": STATUS[: len(STATUS) // 2],
    "another protocol": STATUS.replace(b"MSTR", b"HTTP"),
    "a frame of the daemon": frame("Welcome", protocol=PROTOCOL, version="1"),
    "a root beyond the end": struct.pack("<I", 1 << 30) + STATUS[4:],
}


@pytest.mark.parametrize("name", NOT_FRAMES)
def test_what_is_no_frame_ends_the_connection(name, daemon, pair):
    with RawClient(daemon) as client:
        client.send_bytes(NOT_FRAMES[name])
        expect_farewell(daemon, pair, client, "invalid", "not a frame of this protocol")


def test_an_oversized_packet(daemon, pair):
    with RawClient(daemon) as client:
        client.send_bytes(STATUS + bytes(64 << 10))
        expect_farewell(daemon, pair, client, "invalid", "a packet is too long")


@pytest.mark.parametrize("body", [None, "second Hello", "before Hello"])
def test_frames_at_the_wrong_time(body, daemon, pair):
    with RawClient(daemon, greet=body != "before Hello") as client:
        if body == "before Hello":
            client.send("StatusQuery")
            assert client.farewell() == ("invalid", "a request came before Hello")
            pair.goes_on()
        elif body:
            client.send("Hello", protocol=PROTOCOL)
            expect_farewell(daemon, pair, client, "invalid", "the client said Hello twice")
        else:
            client.send_bytes(bodiless())
            expect_farewell(daemon, pair, client, "invalid", "")


def bodiless() -> bytes:
    """Returns a StatusQuery frame without a body: the vtable's third field is cleared."""
    data = bytearray(STATUS)
    root = struct.unpack_from("<I", data)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    struct.pack_into("<H", data, vtable + 4 + 2 * 2, 0)
    return bytes(data)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_truncated_greeting(leaves, daemon, pair):
    client = RawClient(daemon, greet=False)
    client.send_bytes(frame("Hello", protocol=PROTOCOL)[:40])
    if not leaves:
        # The client stays silent, and is cut off for the frame that it sent.
        assert client.farewell()[0] == "invalid"
    client.close()
    pair.goes_on()


FIRST = (SEAL, b"x" * 5000, 0, True)
PARTS = {
    "none before it": [(SEAL, b"x" * 10, 20, False)],
    "a hole": [FIRST, (SEAL, b"x" * 10, 5001, False)],
    "an overlap": [FIRST, (SEAL, b"x" * 10, 4999, False)],
    "another type": [FIRST, (CONTRIBUTE, b"x" * 10, 5000, False)],
    "an offset that overflows": [(SEAL, b"x" * 5000, (1 << 64) - 5, True)],
    "a small one in the middle": [FIRST, (SEAL, b"x" * 10, 5000, True)],
    "one without bytes": [FIRST, (SEAL, b"", 5000, True)],
}


@pytest.mark.parametrize("wrong", PARTS)
def test_parts_of_a_record_that_do_not_fit_together(wrong, daemon, pair):
    with RawClient(daemon) as client:
        *good, (kind, body, offset, more) = PARTS[wrong]
        for each in good:
            assert client.ask("Submit", **dict(zip(("type", "body", "offset", "more"), each)))[0].name == "Ok"
        code, message = client.fails("Submit", type=kind, body=body, offset=offset, more=more)
        assert code == "invalid"
        assert "a part of" in message
        assert client.survives()
        pair.goes_on()


def test_a_record_without_end(daemon, pair):
    part = bytes(48 << 10)
    with RawClient(daemon) as client:
        for offset in range(0, 64 << 20, len(part)):
            reply, _ = client.ask("Submit", type=SEAL, body=part, offset=offset, more=True)
            if reply.name != "Ok":
                break
        assert (CODES[reply.code], "a record has more than" in reply.message) == ("invalid", True)
        # The daemon drops the parts that had come, and their charge.
        (own,) = [one for one in ask(daemon, "status")["clients"] if one["id"] == client.id]
        assert own["memory_bytes"] < 1 << 20
        pair.goes_on()


def test_an_empty_packet_is_an_end(daemon, pair):
    with RawClient(daemon) as client:
        client.send_bytes(b"")
        client.is_ended()
        is_forgotten(daemon, client.id)


def valid_frames(client: RawClient) -> list[bytes]:
    """Returns one frame of each body that a client may send, except Stop: its own user may end the daemon."""
    bodies = {
        "Lease": {"bytes": 1 << 20},
        "Join": {"group": "mutated", "rank": 0, "world_size": 2, "timeout_ms": 1000},
        "Lookup": {"incarnation": 1, "object": client.object_id(1), "capability": (1, 2)},
        "Submit": {"type": 1, "body": bytes(64)},
    }
    last = BODIES.index("ClientsQuery")
    return [frame(body, **bodies.get(body, {})) for body in BODIES[2 : last + 1]]


def test_mutated_frames(daemon, pair):
    chance = random.Random(SEED)
    answered = cut_off = 0
    client = RawClient(daemon)
    for _ in range(600):
        data = bytearray(chance.choice(valid_frames(client)))
        for _ in range(chance.choice([1, 1, 2, 8])):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        client.send_bytes(bytes(data))
        if client.survives():
            answered += 1
            continue
        client.close()
        cut_off += 1
        client = RawClient(daemon)
    client.close()
    assert answered > 50
    assert cut_off > 50
    is_forgotten(daemon, client.id)


def test_a_protocol_that_the_daemon_does_not_know(daemon, pair):
    with RawClient(daemon, greet=False) as client:
        code, message = client.fails("Hello", protocol=PROTOCOL + 1, name="newer")
        assert code == "invalid"
        assert f"protocol {PROTOCOL + 1}" in message
        assert f"protocol {PROTOCOL}" in message
        client.is_ended()
    eventually(lambda: "newer" in daemon.output() or f"protocol {PROTOCOL + 1}" in daemon.output())
    pair.goes_on()
