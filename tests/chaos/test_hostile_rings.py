"""Wrong bytes in the rings, and false ids, sizes and holds: the daemon believes none, and nobody else notices."""

from __future__ import annotations

import os
import random
import struct

import pytest
from chaos_harness import eventually, is_forgotten
from raw_client import (
    ALLREDUCE,
    BARRIER,
    COMBINE,
    COMPLETION_HEAD,
    CONTRIBUTE,
    DONE,
    FAILED,
    GROUP_CHANGED,
    PIN,
    RELEASE,
    RING_BYTES,
    SEAL,
    SEAL_FAILED,
    SUBMISSION_HEAD,
    UNMAPPED,
    RawClient,
    code_of_failed,
    combine,
    contribute,
    manifest,
    seal,
)

SEED = 21
PAGE = 4096
I64_MAX = (1 << 63) - 1


def ends(daemon, pair, client: RawClient, what: str, code: str = "invalid") -> None:
    """The client learns why it is cut off, the log says who and why, and the daemon keeps nothing of it."""
    told, reason = client.farewell()
    assert (told, what in reason) == (code, True), reason
    assert f"client {client.id}, hostile (pid {os.getpid()}): " in daemon.output()
    is_forgotten(daemon, client.id)
    pair.goes_on()


@pytest.fixture
def client(daemon, pair):
    with RawClient(daemon) as client:
        yield client


TAILS = {
    "beyond the ring": RING_BYTES + 8,
    "far beyond": 1 << 60,
    "backwards": -8,
    "at the end of numbers": (1 << 64) - 8,
    "unaligned": 12,
}


@pytest.mark.parametrize("name", TAILS)
def test_a_position_that_lies(name, daemon, pair, client):
    client.submit(RELEASE, b"")
    eventually(lambda: client.word(SUBMISSION_HEAD), client.tail)
    client.publish(client.tail + TAILS[name])
    ends(daemon, pair, client, "its writer's position is")


HEADERS = {
    "longer than a record may be": (RING_BYTES, RELEASE, 0, "a record's bytes are"),
    "the longest there is": (0xFFFF_FFFF, RELEASE, 0, "a record's bytes are"),
    "longer than what was written": (64, RELEASE, 0, "a record crosses an end"),
    "with flags": (8, RELEASE, 1, "a record's flags are"),
    "padding in the middle": (8, 0, 0, "padding ends before the ring does"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_record_length_that_lies(name, daemon, pair, client):
    length, kind, flags, what = HEADERS[name]
    client.submit(kind, bytes(8), length=length, flags=flags)
    ends(daemon, pair, client, what)


def test_a_record_across_the_rings_end(daemon, pair, client):
    filler = client.record(RELEASE, b"") * (RING_BYTES // 8 - 2)
    client.write(filler)
    client.publish(client.tail)
    eventually(lambda: client.word(SUBMISSION_HEAD), client.tail)
    client.write(struct.pack("<IHH", 32, RELEASE, 0))
    client.publish(client.tail + 32)
    ends(daemon, pair, client, "a record crosses an end")


RECORDS = {
    "an unknown type": (99, b"", "the record has the unknown type 99"),
    "an empty seal": (SEAL, b"", "the seal record is malformed"),
    "a truncated seal": (SEAL, seal(1, manifest(1, 0, [4]))[:-8], "the manifest is malformed"),
    "a negative size": (SEAL, seal(1, manifest(1, 0, [-1])), "negative size"),
    "sizes that overflow": (SEAL, seal(1, manifest(1, 0, [1 << 40, 1 << 40])), "too large"),
    "bytes that overflow": (SEAL, seal(1, manifest(1, 0, [I64_MAX])), "too large"),
    "an offset that overflows": (SEAL, seal(1, manifest(1, (1 << 63) - 64, [64])), "can't lie there"),
    "an unaligned offset": (SEAL, seal(1, manifest(1, 2, [4])), "can't lie there"),
    "an unknown dtype": (SEAL, seal(1, manifest(1, 0, [4], dtype=200)), "a dtype is unknown"),
    "leaves that aren't there": (SEAL, seal(1, struct.pack("<IIIIII", 1 << 17, 0, 0, 0, 0, 0)), "is malformed"),
    "too many leaves": (SEAL, seal(1, struct.pack("<IIIIII", 0xFFFF_FFFF, 0, 0, 0, 0, 0)), "is malformed"),
    "no object": (SEAL, seal(0, manifest(1, 0, [4])), "it names no object"),
    "more copied than there is": (SEAL, seal(1, manifest(1, 0, [4]), copied_bytes=17), "more bytes were copied"),
    "an own parent": (SEAL, seal(7, manifest(1, 0, [4]), parent=7), "its own parent"),
    "a negative timeout": (CONTRIBUTE, contribute(1, 1, timeout_ns=-1), "its timeout is negative"),
    "an unknown kind": (CONTRIBUTE, contribute(1, 1, kind=77), "its kind is unknown"),
    "an unknown reduce op": (CONTRIBUTE, contribute(1, 1, op=77), "its reduce op is unknown"),
    "objects that aren't there": (CONTRIBUTE, contribute(1, 1, count=0xFFFF_FFFF), "contribute record is malformed"),
    "a key without end": (CONTRIBUTE, contribute(1, 1, key=b"k" * 5000), "its key is too long"),
    "no work": (CONTRIBUTE, contribute(0, 1), "it names no work"),
    "no seat": (CONTRIBUTE, contribute(1, 0), "it names no seat"),
    "no ranks": (COMBINE, combine(1, ALLREDUCE, 0, []), "it has no ranks"),
    "a release in pieces": (RELEASE, bytes(12), "release record is malformed"),
    "a release of nothing": (RELEASE, bytes(8), "an object has no id"),
    "a release of what it doesn't hold": (RELEASE, struct.pack("<Q", 1 << 40 | 1), "object"),
    "a pin of nothing": (PIN, b"", "pin record is malformed"),
    "unmapped nothing": (UNMAPPED, b"", "unmapped record is malformed"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_can_not_be(name, daemon, pair, client):
    kind, body, what = RECORDS[name]
    client.submit(kind, body)
    code, reason = client.farewell()
    assert code in ("invalid", "denied", "object_lost")
    assert what in reason
    assert f"client {client.id}, hostile (pid {os.getpid()}): " in daemon.output()
    is_forgotten(daemon, client.id)
    pair.goes_on()


def test_the_same_record_over_the_socket(daemon, pair, client):
    client.send("Submit", type=SEAL, body=seal(1, manifest(1, 0, [-1])))
    ends(daemon, pair, client, "negative size")


def test_mutated_records(daemon, pair):
    chance = random.Random(SEED)
    cut_off = 0
    client = RawClient(daemon)
    for _ in range(400):
        own = client.object_id(1)
        valid = [
            (SEAL, seal(own, manifest(1, 0, [16, 4]))),
            (CONTRIBUTE, contribute(1, 1, objects=[own], key=b"key")),
            (COMBINE, combine(1, ALLREDUCE, 1, [own])),
            (RELEASE, struct.pack("<Q", own)),
            (PIN, struct.pack("<Q", own)),
        ]
        kind, body = chance.choice(valid)
        record = bytearray(client.record(kind, body))
        for _ in range(chance.choice([1, 1, 2, 8])):
            record[chance.randrange(len(record))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        client.write(bytes(record))
        client.publish(client.tail)
        if client.survives():
            continue
        client.close()
        cut_off += 1
        client = RawClient(daemon)
    client.close()
    assert cut_off > 50
    is_forgotten(daemon, client.id)


# ---- ids ----


@pytest.fixture
def other(daemon, client):
    """Makes an honest client with a segment, an object in it, and a seat of a group of two."""
    with RawClient(daemon, greet=False) as other:
        other.greet("honest")
        other.segment = other.lease(1 << 20)
        other.object = other.object_id(1)
        other.submit(SEAL, seal(other.object, manifest(other.segment, 0, [1024])))
        other.seat = other.join("honest", 0, 2).seat
        assert other.ask("Describe", object=other.object)[0].name == "Object"
        yield other
        # It is still there, and everything of it is as it was.
        assert other.ask("Describe", object=other.object)[0].name == "Object"
        assert other.ask("Leave", seat=other.seat)[0].name == "Ok"
        other.submit(RELEASE, struct.pack("<Q", other.object))
        assert other.ask("Return", segment=other.segment)[0].name == "Ok"


def test_requests_with_ids_of_nobody(client, pair):
    nobody = 0x7FFF_FFFF
    assert client.fails("Map", segment=nobody)[0] == "invalid"
    for body in ("Mapped", "HardSeal", "Return"):
        assert client.fails(body, segment=nobody)[0] == "denied"
        # Mapped with segment 0 concerns the rings, and may be said once.
        assert client.fails(body, segment=0)[0] == ("invalid" if body == "Mapped" else "denied")
    assert client.fails("Leave", seat=nobody)[0] == "invalid"
    assert client.fails("Describe", object=I64_MAX)[0] == "object_lost"
    assert client.ask("MissingQuery", work=I64_MAX)[0].ranks == []
    pair.goes_on()


def test_requests_with_the_ids_of_others(client, other, pair):
    for body in ("Mapped", "HardSeal", "Return"):
        assert client.fails(body, segment=other.segment)[0] == "denied"
    assert client.fails("Leave", seat=other.seat)[0] == "invalid"
    assert client.fails("Describe", object=other.object)[0] == "denied"
    incarnation = client.ask("StatusQuery")[0].incarnation
    guess = {"object": other.object, "capability": (3, 4)}
    assert client.fails("Lookup", incarnation=incarnation, **guess)[0] == "denied"
    assert client.fails("Lookup", incarnation=incarnation ^ 1, **guess)[0] == "daemon_restarted"
    assert client.fails("Lookup", incarnation=incarnation, object=other.object)[0] == "invalid"
    pair.goes_on()


def sealing_fails(client: RawClient, body: bytes) -> str:
    client.submit(SEAL, body)
    return code_of_failed(client.wait_completion(SEAL_FAILED))


def test_seals_of_what_is_not_ones_own(client, other, pair):
    own = client.lease(1 << 16)
    fresh = client.object_id(100)
    assert sealing_fails(client, seal(client.object_id(101), manifest(other.segment, 0, [16]))) == "denied"
    assert sealing_fails(client, seal(other.object + 1, manifest(own, 0, [16]))) == "denied"
    assert sealing_fails(client, seal(client.object_id(102), manifest(own, 0, [1 << 20]))) == "invalid"
    # An id names one object, even if that object's seal failed.
    assert sealing_fails(client, seal(client.object_id(102), manifest(own, 0, [16]))) == "invalid"
    assert sealing_fails(client, seal(client.object_id(103), manifest(own, 1 << 40, [16]))) == "invalid"
    assert sealing_fails(client, seal(client.object_id(104), manifest(own, 0, [16]), parent=other.object)) == "denied"
    client.submit(SEAL, seal(fresh, manifest(own, 0, [16])))
    assert sealing_fails(client, seal(fresh, manifest(own, 0, [16]))) == "invalid"
    assert client.fails("Return", segment=own)[0] == "invalid"
    pair.goes_on()


def contributing_fails(client: RawClient, *arguments, **more) -> str:
    client.submit(CONTRIBUTE, contribute(1, *arguments, **more))
    return code_of_failed(client.wait_completion(FAILED))


def test_contributions_with_the_ids_of_others(client, other, pair):
    assert contributing_fails(client, other.seat, kind=BARRIER) == "group_closed"
    seat = client.join("own", 0, 1).seat
    assert contributing_fails(client, seat, objects=[other.object]) == "denied"
    assert contributing_fails(client, seat, objects=[client.object_id(9)]) == "object_lost"
    client.submit(CONTRIBUTE, contribute(1, seat, kind=BARRIER))
    client.wait_completion(DONE)
    client.submit(PIN, struct.pack("<Q", other.object))
    assert client.ask("Leave", seat=seat)[0].name == "Ok"
    pair.goes_on()


JOINS = {
    "a negative rank": {"rank": -1},
    "a rank out of range": {"rank": 2},
    "no ranks": {"world_size": 0},
    "a negative size": {"world_size": -(1 << 31)},
    "a huge size": {"world_size": (1 << 31) - 1},
    "an unknown policy": {"on_loss": 200},
    "no name": {"group": ""},
    "a long name": {"group": "g" * 50_000},
    "another size than the group's": {"world_size": 3},
    "a seat that is taken": {"rank": 0},
}


@pytest.mark.parametrize("name", JOINS)
def test_seats_that_can_not_be(name, client, other, pair):
    wanted = {"group": "honest", "rank": 1, "world_size": 2, "timeout_ms": 1000, **JOINS[name]}
    assert client.fails("Join", **wanted)[0] in ("invalid", "mismatch", "denied")
    assert not other.ask("StatusQuery")[0].ops_failed
    pair.goes_on()


@pytest.mark.parametrize("size", [0, 1 << 62, (1 << 64) - 1])
def test_leases_of_sizes_that_can_not_be(size, client, pair):
    assert client.fails("Lease", bytes=size)[0] in ("invalid", "out_of_memory")
    pair.goes_on()


def test_a_hostile_rank_fails_its_own_group_only(client, other, pair):
    """It takes the free seat, disagrees, and leaves."""
    seat = client.join("honest", 1, 2).seat
    other.submit(CONTRIBUTE, contribute(1, other.seat, kind=ALLREDUCE, objects=[other.object]))
    client.submit(CONTRIBUTE, contribute(1, seat, kind=BARRIER))
    assert code_of_failed(other.wait_completion(FAILED)) == "mismatch"
    client.close()
    other.wait_completion(GROUP_CHANGED)
    pair.goes_on()


# ---- who never reads ----


def test_completions_that_nobody_reads(daemon, pair, client):
    """The daemon keeps a bounded backlog for the client, and then ends the connection."""
    record = client.record(CONTRIBUTE, contribute(1, 99, kind=BARRIER, key=b"a key"))
    assert RING_BYTES % len(record) == 0
    ringful = record * (RING_BYTES // len(record))
    for _ in range(10_000):
        client.write(ringful)
        client.publish(client.tail)
        eventually(lambda: client.word(SUBMISSION_HEAD) == client.tail or was_closed(daemon, client.id))
        if client.word(SUBMISSION_HEAD) != client.tail:
            break
    ends(daemon, pair, client, "doesn't read its completions", "quota_exceeded")


def was_closed(daemon, client: int) -> bool:
    return f"closed the connection of client {client}," in daemon.output()


def test_a_reading_position_that_lies(daemon, pair, client):
    client.word(COMPLETION_HEAD, 1 << 50)
    # There are more outcomes than fit in the ring.
    record = client.record(CONTRIBUTE, contribute(1, 99, kind=BARRIER))
    client.write(record * (RING_BYTES // len(record)))
    client.publish(client.tail)
    ends(daemon, pair, client, "its reader's position is")


def test_replies_that_nobody_reads(daemon, pair, client):
    """The daemon stops reading the client's requests, and answers all once the client reads."""
    asked = client.send_until_blocked("ClientsQuery")
    pair.goes_on()
    for _ in range(asked):
        assert client.name_of_next() == "Clients"


def test_replies_that_nobody_reads_before_the_end(daemon, pair, client):
    client.send_until_blocked("Fork")
    pair.goes_on()
    client.close()
    is_forgotten(daemon, client.id)
