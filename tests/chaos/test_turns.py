"""Requests of clients that have to wait for the rings of others."""

from __future__ import annotations

import os
import pathlib
import select
import socket

import pytest
from chaos_harness import ask, eventually
from raw_client import CUT_OFF, PROTOCOL, SEAL, Ended, RawClient, manifest, seal


@pytest.mark.parametrize("rings", [True, False])
@pytest.mark.parametrize("maker_ends", [False, True])
def test_a_lookup_of_what_its_maker_has_published_and_nobody_has_read(daemon, rings, maker_ends):
    incarnation = int(ask(daemon, "status")["incarnation"])
    with RawClient(daemon) as maker, RawClient(daemon, greet=False) as asker:
        asker.send("Hello", protocol=PROTOCOL, name="asker", rings=rings)
        assert asker.name_of_next() == "Welcome"
        segment = maker.lease(1 << 16)
        for number in range(1, 101):
            # The daemon gets no wake-up for the record in the ring.
            maker.ring_doorbell = lambda: None
            maker.submit(SEAL, seal(maker.object_id(number), manifest(segment, 64 * number, [1])))
            wanted = {"object": maker.object_id(number), "incarnation": incarnation}
            if maker_ends:
                break
            asker.send("Lookup", capability=(1, 2), **wanted)
            assert asker.name_of_next() == "Object"
        if maker_ends:
            asker.send("Lookup", capability=(1, 2), **wanted)
            maker.close()
            assert asker.name_of_next() in ("Object", "Failure")
        assert asker.survives()


class Watched:
    """A descriptor that very many epoll sets watch: the kernel walks all of them when it is signalled or closed."""

    def __init__(self, descriptor):
        self._copies = [os.dup(descriptor) for _ in range(500)]
        self._watches = [select.epoll() for _ in range(300)]
        for watch in self._watches:
            for copy in self._copies:
                watch.register(copy, select.EPOLLIN | select.EPOLLET)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for watch in self._watches:
            watch.close()
        for copy in self._copies:
            os.close(copy)


def test_a_client_whose_socket_is_watched_by_very_many_is_cut_off(daemon, pair):
    """Each send walks all of them. That takes far longer than a client is allowed."""
    client = RawClient(daemon)
    assert client.survives()

    def is_cut_off() -> bool:
        try:
            client.ask("StatusQuery")
        except (Ended, *CUT_OFF):
            return True
        return False

    with Watched(client.socket.fileno()):
        eventually(is_cut_off)
        pair.goes_on()
    client.close()


def turns_of_the_pool(daemon) -> dict[str, int]:
    """Returns how many times each thread of the pool has been given a core."""
    return {
        task.name: int((task / "schedstat").read_text().split()[2])
        for task in pathlib.Path(f"/proc/{daemon.pid}/task").iterdir()
        if (task / "comm").read_text().strip() == "muster-blocking"
    }


def descriptors_held(daemon) -> int:
    return sum(1 for _ in pathlib.Path(f"/proc/{daemon.pid}/fd").iterdir())


def test_a_life_line_that_very_many_watch_is_closed_by_a_thread_of_the_pool(daemon, pair):
    """Its other end is only shut down, so closing this end walks all of them."""
    with RawClient(daemon) as client:
        _, [line] = client.ask("Fork")
        with socket.socket(fileno=line) as other_end, Watched(other_end.fileno()):
            held = descriptors_held(daemon)
            before = turns_of_the_pool(daemon)
            other_end.shutdown(socket.SHUT_RDWR)
            eventually(lambda: descriptors_held(daemon), held - 1)
            now = turns_of_the_pool(daemon)
        # Nothing else in this test gives the pool work meanwhile.
        assert any(turns > before.get(thread, 0) for thread, turns in now.items())
        assert client.survives()
    pair.goes_on()
