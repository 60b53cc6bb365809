"""A client without libmuster: it can send anything, write anything into its rings, and skip any step."""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import re
import socket
import struct

from chaos_harness import PATIENCE_S, SOURCE
from flat import Table, frame, read_frame

RING_BYTES = 256 << 10
HEADER_BYTES = 4096
CHANNEL_BYTES = HEADER_BYTES + 2 * RING_BYTES
# Words of the channel's header, by their offset in bytes.
SUBMISSION_TAIL, SUBMISSION_HEAD = 64, 128
DAEMON_POLLS = 192
COMPLETION_TAIL, COMPLETION_HEAD = 256, 320
NOTIFY_ARMED = 388
PART_BYTES = 48 << 10

SEAL, CONTRIBUTE, RELEASE, COMBINE, PIN, UNMAPPED = range(1, 7)
DONE, FAILED, OBJECT_GONE, SEAL_FAILED, GROUP_CHANGED, SEGMENT_GONE = range(1, 7)
BARRIER, ALLREDUCE, SCAN, ALLGATHER = 0, 1, 3, 5
FLOAT32 = 11

PROTOCOL = int(re.search(r"protocol_version = (\d+)", (SOURCE / "include/muster/ipc/socket.hpp").read_text()).group(1))
_ENUM = re.search(r"enum class Code[^{]*\{(.*?)\}", (SOURCE / "include/muster/result.hpp").read_text(), re.DOTALL)
CODES = {int(number): name for name, number in re.findall(r"(\w+) = (\d+)", _ENUM.group(1))}


# Errors of a send when the daemon has closed the connection.
CUT_OFF = (BrokenPipeError, ConnectionResetError)


class Ended(Exception):
    """The daemon has closed the connection."""


class RawClient:
    """A connection to the daemon; it says Hello unless told not to."""

    def __init__(self, daemon, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(daemon.socket)
        self.requests = self.answered = 0
        self.tail = 0
        self.head = 0
        self.id = 0
        if greet:
            self.greet()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        self.socket.close()
        for name in ("channel", "doorbell", "notify"):
            held = self.__dict__.pop(name, None)
            if name == "channel" and held is not None:
                held.close()
            elif held is not None:
                os.close(held)

    def greet(self, name: str = "hostile") -> None:
        self.send("Hello", protocol=PROTOCOL, name=name)
        self.welcomed(*self.receive())

    def welcomed(self, welcome: Table, fds: list[int], opens: bool = True) -> None:
        """`opens` says whether it tells the daemon that it has mapped its rings; without that nobody uses them."""
        assert welcome.name == "Welcome", welcome.name
        self.id = welcome.client
        channel, self.doorbell, self.notify = fds
        self.channel = mmap.mmap(channel, CHANNEL_BYTES)
        os.close(channel)
        if opens:
            reply, _ = self.ask("Mapped", segment=0)
            assert reply.name == "Ok", reply.message

    # ---- the socket ----

    def send_bytes(self, data: bytes, fds=()) -> None:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], control)

    def send(self, body: str, /, **values) -> int:
        self.requests += 1
        self.send_bytes(frame(body, self.requests, **values))
        return self.requests

    def receive_packet(self) -> tuple[bytes, list]:
        while True:
            try:
                data, control, _, _ = self.socket.recvmsg(64 << 10, socket.CMSG_SPACE(64))
                break
            except ConnectionResetError:
                continue  # this reply comes before the rest is sent
        if not data:
            raise Ended
        return data, control

    def receive(self) -> tuple[Table, list[int]]:
        """Returns the next frame and its descriptors, in whatever order replies come; raises Ended at the end."""
        data, control = self.receive_packet()
        self.answered, body = read_frame(data)
        if body.name == "Part":
            data = bytes(body.bytes)
            while body.more:
                _, body = read_frame(self.receive_packet()[0])
                data += bytes(body.bytes)
        fds = array.array("i")
        for _, _, content in control:
            fds.frombytes(content[: len(content) // 4 * 4])
        self.answered, body = read_frame(data)
        return body, list(fds)

    def name_of_next(self) -> str:
        """Returns the name of the next frame's body, and closes its descriptors."""
        body, fds = self.receive()
        for fd in fds:
            os.close(fd)
        return body.name

    def survives(self) -> bool:
        """Whether the daemon still answers questions on this connection."""
        with contextlib.suppress(Ended, *CUT_OFF):
            asked = self.send("StatusQuery")
            while self.name_of_next() != "Goodbye":
                if self.answered == asked:
                    return True
        return False

    def send_until_blocked(self, body: str) -> int:
        """Sends requests without reading, until the socket is full; returns how many."""
        self.socket.setblocking(False)
        for asked in range(100_000):
            try:
                self.send(body)
            except BlockingIOError:
                self.socket.settimeout(PATIENCE_S)
                return asked
        raise AssertionError("the daemon takes all that comes")

    def ask(self, body: str, /, **values) -> tuple[Table, list[int]]:
        self.send(body, **values)
        return self.receive()

    def submit_in_parts(self, kind: int, body: bytes) -> None:
        """Submits a record that is too large for the ring."""
        for offset in range(0, len(body), PART_BYTES):
            part = body[offset : offset + PART_BYTES]
            more = offset + len(part) < len(body)
            assert self.ask("Submit", type=kind, body=part, offset=offset, more=more)[0].name == "Ok"

    def fails(self, body: str, /, **values) -> tuple[str, str]:
        """Returns code and message of the Failure that the daemon answers."""
        reply, _ = self.ask(body, **values)
        assert reply.name == "Failure", reply.name
        return CODES[reply.code], reply.message

    def farewell(self) -> tuple[str, str]:
        """Returns code and reason of the Goodbye that ends the connection; skips other frames before it."""
        while (last := self.receive()[0]).name != "Goodbye":
            pass
        self.is_ended()
        return CODES[last.code], last.reason

    def is_ended(self) -> None:
        try:
            found = self.receive()[0].name
        except Ended:
            return
        raise AssertionError(f"{found} where the connection should be at its end")

    # ---- the rings ----

    def word(self, at: int, value: int | None = None) -> int:
        """Reads one 64-bit word of the channel, or writes it."""
        if value is not None:
            self.channel[at : at + 8] = struct.pack("<Q", value & (1 << 64) - 1)
        return struct.unpack_from("<Q", self.channel, at)[0]

    def ring_doorbell(self) -> None:
        os.write(self.doorbell, struct.pack("<Q", 1))

    def arm_notify(self) -> None:
        self.channel[NOTIFY_ARMED : NOTIFY_ARMED + 4] = struct.pack("<I", 1)

    def publish(self, tail: int) -> None:
        self.word(SUBMISSION_TAIL, tail)
        self.ring_doorbell()

    def write(self, data: bytes) -> None:
        """Writes the bytes into the submission ring as they are."""
        at = HEADER_BYTES + self.tail % RING_BYTES
        self.channel[at : at + len(data)] = data
        self.tail += len(data)

    def record(self, kind: int, body: bytes, length: int | None = None, flags: int = 0) -> bytes:
        header = struct.pack("<IHH", len(body) if length is None else length, kind, flags)
        return header + body + b"\0" * (-len(body) % 8)

    def submit(self, kind: int, body: bytes, **lies) -> None:
        record = self.record(kind, body, **lies)
        to_end = RING_BYTES - self.tail % RING_BYTES
        if len(record) > to_end:  # a record must not cross the ring's end, so padding fills the rest
            self.write(struct.pack("<IHH", to_end - 8, 0, 0))
            self.tail += to_end - 8
        self.write(record)
        self.publish(self.tail)

    def completion(self) -> tuple[int, bytes] | None:
        """Returns the next completion, if there is one."""
        while self.head < self.word(COMPLETION_TAIL):
            at = HEADER_BYTES + RING_BYTES + self.head % RING_BYTES
            length, kind, _ = struct.unpack_from("<IHH", self.channel, at)
            body = self.channel[at + 8 : at + 8 + length]
            self.head += 8 + (length + 7) // 8 * 8
            self.word(COMPLETION_HEAD, self.head)
            if kind:
                return kind, body
        return None

    def wait_completion(self, kind: int) -> bytes:
        """Returns the next completion of this kind; skips others. An answer means that all records are read."""
        while True:
            asked = self.ask("StatusQuery")[0].name
            assert asked == "StatusReply"
            while (found := self.completion()) is not None:
                if found[0] == kind:
                    return found[1]

    # ---- what an honest client does, too ----

    def object_id(self, counter: int) -> int:
        return self.id << 32 | counter

    def lease(self, size: int, **values) -> int:
        """Leases a segment, which is then mapped and sealed; returns its id."""
        segment, fds = self.ask("Lease", bytes=size, timeout_ms=1000, **values)
        assert segment.name == "Segment", segment.message
        with mmap.mmap(fds[0], segment.bytes):
            os.close(fds[0])
            reply, _ = self.ask("Mapped", segment=segment.segment)
            assert reply.name == "Ok"
        return segment.segment

    def join(self, group: str, rank: int, world_size: int, **values) -> Table:
        joined, _ = self.ask("Join", group=group, rank=rank, world_size=world_size, timeout_ms=30_000, **values)
        assert joined.name == "Joined", joined.message
        return joined


def manifest(segment: int, offset: int, shape: list[int], dtype: int = FLOAT32) -> bytes:
    """Packs the manifest of one array."""
    leaf = struct.pack("<QIBBH", offset, segment, dtype, len(shape), 0)
    return struct.pack("<IIIIII", 1, len(shape), 0, 0, 0, 0) + leaf + struct.pack(f"<{len(shape)}q", *shape)


def seal(object_id: int, content: bytes, parent: int = 0, copied_bytes: int = 0) -> bytes:
    return struct.pack("<QQQQQ", object_id, 1, 2, parent, copied_bytes) + content


def contribute(work: int, seat: int, kind: int = ALLREDUCE, objects=(), timeout_ns: int = 10**10, **other) -> bytes:
    epoch, root, op, key = (other.get(name, 0) for name in ("epoch", "root", "op", "key"))
    key = key or b""
    count = other.get("count", len(objects))
    head = struct.pack("<QqqIIiIIBBBB", work, 0, timeout_ns, seat, epoch or 1, root, count, len(key), kind, op, 0, 0)
    body = head + struct.pack(f"<{len(objects)}Q", *objects) + key
    return body + b"\0" * (-len(body) % 8)


def combine(work: int, kind: int, ranks: int, objects: list[int]) -> bytes:
    head = struct.pack("<QqiIIBBBB", work, 10**10, 0, ranks, len(objects), kind, 0, 0, 0)
    return head + struct.pack(f"<{len(objects)}Q", *objects)


def code_of_failed(body: bytes) -> str:
    """Returns the error code of a Failed or SealFailed record."""
    return CODES[struct.unpack_from("<Q4I", body)[4]]
