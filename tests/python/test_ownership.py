"""A sealed value stays as it was returned, whatever a program keeps and however it writes. No copy is unnecessary.

The programs are random: MUSTER_OWNERSHIP_PROGRAMS says how many, MUSTER_OWNERSHIP_SEED gives the first seed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import types

import keeping
import numpy as np
from programs import REVIVED, Maps, Program, leaves_of

from daemon import SPAWN, ranks

PROGRAMS = int(os.environ.get("MUSTER_OWNERSHIP_PROGRAMS", "2000"))
SEED = int(os.environ.get("MUSTER_OWNERSHIP_SEED", "1"))
BATCH = 100


def _read(_rank, requests, answers):
    """Another process: reports each object's values when it gets the object, and later again."""
    for refs in iter(requests.get, None):
        views = [leaves_of(ref.get()) for ref in refs]
        answers.put([[leaf.tobytes() for leaf in leaves] for leaves in views])
        assert requests.get() == "again"
        answers.put([[leaf.tobytes() for leaf in leaves] for leaves in views])
        REVIVED.clear()


@contextlib.contextmanager
def reader(daemon):
    """Yields a function that gives refs to the other process, and one that asks for their objects' values now."""
    requests, answers = SPAWN.Queue(), SPAWN.Queue()

    def ask(request):
        requests.put(request)
        return answers.get(timeout=60)

    with ranks(daemon, _read, 1, requests, answers):
        yield ask
        requests.put(None)


def batches():
    for first in range(SEED, SEED + PROGRAMS, BATCH):
        yield range(first, min(first + BATCH, SEED + PROGRAMS))


def faults_of(seeds, maps, ask):
    given = np.full(6, 5.0)
    programs = [Program(seed, maps, given) for seed in seeds]
    refs = [program.run() for program in programs]
    faults = [f"{program}: {fault}" for program, ref in zip(programs, refs) for fault in program.check_copies(ref)]
    REVIVED[:] = [value for value in REVIVED if not is_of_the_store(value)]
    before = ask(refs)
    for program in programs:
        program.write()
    keeping.scribble(given)
    after = ask("again")
    for program, *read in zip(programs, before, after):
        returned = [leaf.content for leaf in program.leaves]
        faults += [
            f"{program}: {when} the writes" for when, found in zip(("before", "after"), read) if found != returned
        ]
    return faults


def is_of_the_store(value):
    return isinstance(value, np.ndarray) and not value.flags.writeable


def test_random_programs_change_nothing_that_they_returned(muster, shared_daemon):
    maps = Maps()
    with reader(shared_daemon) as ask:
        for seeds in batches():
            assert faults_of(seeds, maps, ask) == []


SEALS = {
    "variable": lambda seal, take: [seal(array) for array in [take()]].pop(),
    "temporary": lambda seal, take: seal(take()),
    "popped": lambda seal, take: seal([take()].pop()),
    "attribute": lambda seal, take: seal(types.SimpleNamespace(array=take()).array),
    "argument": lambda seal, take: (lambda array: seal(array))(take()),
    "reshaped": lambda seal, take: seal(take().reshape(8, 8)),
}


def test_what_is_kept_of_a_sealed_array_changes_nothing(muster, shared_daemon):
    writers, refs, names = [], [], []
    for way, (expression, seal) in itertools.product(keeping.WAYS, SEALS.items()):

        def take(way=way):
            array = muster.empty(64)
            array[:] = 5
            writer = way(array)
            writers.append(writer or (lambda: None))
            return array

        refs.append(seal(muster.seal, take))
        names.append(f"{way.__name__}, {expression}")
    with reader(shared_daemon) as ask:
        before = ask(refs)
        for writer in writers:
            with contextlib.suppress(ValueError):  # the array is read-only
                writer()
        after = ask("again")
    expected = [np.full(64, 5.0).tobytes()]
    assert [name for name, *read in zip(names, before, after) if read != [expected, expected]] == []


def test_what_is_kept_of_an_array_of_empty_that_a_call_returns_changes_nothing(muster, shared_daemon):
    writers, refs, names = [], [], []
    for way in keeping.WAYS:

        @muster.collective_input
        def call(way=way):
            array = muster.empty(64)
            array[:] = 5
            writer = way(array)
            writers.append(writer or (lambda: None))
            return array

        refs.append(call())
        names.append(way.__name__)
    with reader(shared_daemon) as ask:
        before = ask(refs)
        for writer in writers:
            writer()
        after = ask("again")
    expected = [np.full(64, 5.0).tobytes()]
    assert [name for name, *read in zip(names, before, after) if read != [expected, expected]] == []


def test_an_array_of_empty_that_a_call_returns_is_not_copied(muster, shared_daemon):
    @muster.collective_input
    def call():
        whole = muster.empty((2, 1000))
        whole[...] = 5
        return whole, whole[1]

    ref = call()
    assert (ref.copies, ref.copy_reasons) == (0, {})
    assert all((value == 5).all() for value in ref.get())
    given = muster.empty(3)
    assert muster.collective_input(lambda: given)().copies == 1
    given[:] = 1
