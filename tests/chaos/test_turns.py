"""What clients ask for that has to wait for others' rings."""

from __future__ import annotations

import os
import select

import pytest
from chaos_harness import ask, eventually
from raw_client import CUT_OFF, PROTOCOL, SEAL, Ended, RawClient, manifest, seal


@pytest.mark.parametrize("rings", [True, False])
@pytest.mark.parametrize("maker_ends", [False, True])
def test_a_lookup_of_what_its_maker_has_published_and_nobody_has_read(daemon, rings, maker_ends):
    incarnation = int(ask(daemon, "status")["incarnation"])
    with RawClient(daemon) as maker, RawClient(daemon, greet=False) as asker:
        asker.send("Hello", protocol=PROTOCOL, name="asker", language="raw", rings=rings)
        assert asker.name_of_next() == "Welcome"
        segment = maker.lease(1 << 16)
        for number in range(1, 101):
            # The daemon is not told that there is something in the ring.
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


def test_a_client_whose_socket_is_watched_by_very_many_is_cut_off(daemon, pair):
    """Each send walks all of them. So many take far longer than a client is given."""
    client = RawClient(daemon)
    assert client.survives()
    copies = [os.dup(client.socket.fileno()) for _ in range(500)]
    watches = [select.epoll() for _ in range(300)]
    for watch in watches:
        for copy in copies:
            watch.register(copy, select.EPOLLIN | select.EPOLLET)

    def is_cut_off() -> bool:
        try:
            client.ask("StatusQuery")
        except (Ended, *CUT_OFF):
            return True
        return False

    eventually(is_cut_off)
    pair.goes_on()
    for watch in watches:
        watch.close()
    for copy in copies:
        os.close(copy)
    client.close()
