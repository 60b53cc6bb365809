"""What things say of themselves, and of what is in the way."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest


def test_a_work_says_what_it_is_and_what_became_of_it(muster):
    with muster.group("says", rank=0, world_size=1) as group:
        done = group.reduce(np.ones(3), root=0, key="loss")
        done.result(timeout=10)
        assert repr(done) == "<muster.Work: reduce to 0 'loss' in 'says', done>"
        assert repr(group.broadcast(1)).startswith("<muster.Work: broadcast from 0 in 'says', ")
        failed = group.allreduce(np.ones(3), op="band")
        assert failed.exception(timeout=10) is not None
        assert repr(failed) == "<muster.Work: allreduce in 'says', Invalid>"
        for use in (np.asarray, list, lambda work: work[0], lambda work: work["w"]):
            with pytest.raises(muster.Invalid, match="reduce to 0") as error:
                use(done)
            assert "work.result()" in error.value.hint
    pending = muster.group("says, too", rank=0, world_size=2).barrier()
    assert repr(pending) == "<muster.Work: barrier in 'says, too', pending>"
    assert repr(muster.allreduce_refs([muster.put(1)])).startswith("<muster.Work: allreduce of refs, ")


def test_a_taken_seat_says_whose_it_is(muster):
    with muster.group("taken", rank=0, world_size=2):
        with pytest.raises(muster.Invalid, match="this one, which joined before"):
            muster.group("taken", rank=0, world_size=2)
        code = "import muster\ntry: muster.group('taken', rank=0, world_size=2)\nexcept muster.Invalid as e: print(e)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert f"held by a live process: pid {os.getpid()}" in done.stdout
