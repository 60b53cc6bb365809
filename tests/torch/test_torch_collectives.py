"""Each call of ``torch.distributed`` against its definition, with 1, 2 and 4 ranks. The calls are in collectives.py."""

from __future__ import annotations

import traceback

import collectives
import pytest
import worlds


def try_all(rank, ranks):
    """Returns what went wrong, by the name of the check."""
    wrong = {}
    for name, check in collectives.CHECKS.items():
        try:
            check(rank, ranks)
        except Exception:
            wrong[name] = traceback.format_exc()
    return wrong


@pytest.fixture(scope="session", params=[1, 2, 4])
def outcomes(request, shared_daemon):
    """What went wrong on each rank: the ranks start once for all checks."""
    return worlds.run(shared_daemon, try_all, request.param)


@pytest.mark.parametrize("name", collectives.CHECKS)
def test_each_call_does_what_its_definition_says(outcomes, name):
    wrong = {rank: found[name] for rank, found in enumerate(outcomes) if name in found}
    assert not wrong, "\n".join(f"rank {rank}: {trace}" for rank, trace in wrong.items())
