"""A client can't make the daemon wait by what both share or what it sends: flags, full queues, slow files."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import random
import signal
import socket
import struct
import time

import pytest
from chaos_harness import HealthyPair, eventually, is_stopped, wait_empty
from flat import frame
from raw_client import BARRIER, CONTRIBUTE, CUT_OFF, DONE, PROTOCOL, Ended, RawClient, contribute

from daemon import Daemon

SEED = 12
LINGER_S = 600  # far longer than any test waits
# Simulates a kernel before 6.16, where the daemon can't forbid senders to send descriptors.
OLD_KERNEL = ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=setsockopt")
OLD_KERNEL += ("-e", "inject=setsockopt:error=ENOPROTOOPT")


@pytest.fixture(params=["this kernel", "an old kernel"])
def any_daemon(request):
    old = request.param == "an old kernel"
    # The leak check does not work under a tracer.
    environment = {"ASAN_OPTIONS": "detect_leaks=0"} if old else None
    daemon = Daemon("--memory", "256MiB", prefix=OLD_KERNEL if old else (), environment=environment)
    yield daemon
    print(daemon.output())
    daemon.stop()


class Lingering:
    """A TCP connection that takes ten minutes to close, because its other end reads nothing."""

    def __enter__(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.slow = socket.create_connection(listener.getsockname())
            self.other, _ = listener.accept()
        self.slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
        self.slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.slow.send(bytes(1 << 16))
        return self

    def send_over(self, carrier: socket.socket, data: bytes, daemon: Daemon) -> bool:
        """Sends it with these bytes and keeps no descriptor of it. Returns False if the kernel refuses."""
        # Stops the daemon, so that it does not receive the descriptor first: whoever closes it last has to wait.
        os.kill(daemon.pid, signal.SIGSTOP)
        eventually(lambda: is_stopped(daemon.pid))
        try:
            carrier.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.slow.fileno()]))])
            os.close(self.slow.detach())
        except (PermissionError, BrokenPipeError):
            return False
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        return True

    def __exit__(self, *error):
        # If something is unread, the end is a reset, which also ends the wait of whoever closes the slow descriptor.
        self.other.close()
        self.slow.close()


def cut_off(client: RawClient) -> None:
    """Checks that the daemon ends the connection of a client that sends descriptors."""
    with contextlib.suppress(Ended, *CUT_OFF):
        code, reason = client.farewell()
        assert (code, "descriptors" in reason) == ("invalid", True)


@pytest.mark.parametrize("when", ["with a request", "before Hello", "and leaves", "on its bell"])
def test_a_file_that_takes_long_to_close(when, any_daemon):
    with HealthyPair(any_daemon) as pair:
        with Lingering() as lingering, RawClient(any_daemon, greet=when != "before Hello") as client:
            if when == "on its bell":
                with socket.socket(fileno=os.dup(client.notify)) as bell:
                    assert not lingering.send_over(bell, b"x", any_daemon)
            else:
                data = frame("Hello", protocol=PROTOCOL) if when == "before Hello" else frame("StatusQuery")
                sent = lingering.send_over(client.socket, data, any_daemon)
                if when == "and leaves":
                    client.socket.close()
                elif sent:
                    cut_off(client)
            pair.goes_on()
        pair.goes_on()
    wait_empty(any_daemon)


def test_one_that_lies_in_a_queue_nobody_reads(any_daemon):
    """A connection is accepted, says nothing, has a queue full of slow descriptors, and then ends."""
    with HealthyPair(any_daemon) as pair:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                lingering = stack.enter_context(Lingering())
                client = RawClient(any_daemon, greet=False)
                client.socket.send(b"no frame")
                lingering.send_over(client.socket, b"behind it", any_daemon)
                client.close()
            pair.goes_on()
            with RawClient(any_daemon) as client:
                assert client.survives()
        pair.goes_on()
    wait_empty(any_daemon)


@pytest.fixture
def no_sigio():
    """Ignores SIGIO, by which the kernel tells the owner of a lease that another process opens the file."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


def test_leases_on_the_files_of_segments(no_sigio, daemon, pair):
    """Opening such a file would wait for up to 45 seconds, or for as long as the administrator has configured."""
    with RawClient(daemon) as client:
        leased = []
        for _ in range(100):
            segment, fds = client.ask("Lease", bytes=4096, timeout_ms=1000)
            writer = os.open(f"/proc/self/fd/{fds[0]}", os.O_RDWR)
            os.close(fds[0])
            fcntl.fcntl(writer, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            leased.append((segment.segment, writer))
        for segment, _ in leased:
            code, message = client.fails("Mapped", segment=segment)
            assert (code, "lease" in message) == ("invalid", True)
        pair.goes_on()
        for segment, writer in leased:
            fcntl.fcntl(writer, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            assert client.ask("Mapped", segment=segment)[0].name == "Ok"
            os.close(writer)


def blocking(fd: int) -> None:
    """Makes the open file blocking for everybody who shares it."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def test_a_doorbell_that_is_silenced_before_it_is_heard(daemon, pair):
    with RawClient(daemon) as client:
        blocking(client.doorbell)
        chance = random.Random(SEED)
        for _ in range(20_000):
            client.ring_doorbell()
            # Hits the time between the daemon's wake-up and its read: whoever comes second finds nothing to read.
            until = time.perf_counter_ns() + chance.randrange(60_000)
            while time.perf_counter_ns() < until:
                pass
            with contextlib.suppress(BlockingIOError):
                os.preadv(client.doorbell, [bytearray(8)], -1, os.RWF_NOWAIT)
        pair.goes_on()
        assert client.survives()


def test_a_bell_that_is_full(daemon, pair):
    with RawClient(daemon) as client:
        blocking(client.notify)
        with contextlib.suppress(OSError):
            os.write(client.notify, struct.pack("<Q", (1 << 64) - 2))  # as much as a counter can hold
        seat = client.join("own", 0, 1).seat
        for work in range(1, 2000):
            client.arm_notify()
            client.submit(CONTRIBUTE, contribute(work, seat, kind=BARRIER))
            client.wait_completion(DONE)
        pair.goes_on()
        assert client.survives()
