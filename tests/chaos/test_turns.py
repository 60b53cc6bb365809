"""What clients ask for that has to wait for others' rings."""

from __future__ import annotations

import pytest
from chaos_harness import ask
from raw_client import PROTOCOL, SEAL, RawClient, manifest, seal


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
