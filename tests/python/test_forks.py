"""What a forked child may do with everything that it inherits: drop it, read it, exit with it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import os
import sys

import muster as package
import numpy as np
import pytest
from forks import in_child

from daemon import Daemon, output_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FORK = multiprocessing.get_context("fork")


@package.collective_input
def made():
    return {"a": np.ones(10), "b": [np.ones(100_000)]}


KINDS = {
    "array": lambda muster: muster.put(np.ones(3)).get(),
    "large array": lambda muster: muster.put(np.ones(1_000_000)).get(),
    "scalar": lambda muster: muster.put(1.5).get(),
    "nesting": lambda muster: muster.put({"a": np.ones(3), "b": 1.5}).get(),
    "what a decorated call made": lambda muster: made().get(),
    "result": lambda muster: muster.allreduce_refs([muster.put(np.ones(3))] * 2).result(),
    "ref": lambda muster: muster.put(np.ones(3)),
    "work that is over": lambda muster: muster.allreduce_refs([muster.put(np.ones(3))] * 2),
    "pending work of a group": lambda muster: muster.group("of-a-fork", rank=0, world_size=2).allreduce(np.ones(3)),
    "group": lambda muster: muster.group("of-a-fork", rank=0, world_size=2),
    "array of empty()": lambda muster: muster.empty(5000),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_may_drop_what_it_inherits(muster, kind):
    held = [KINDS[kind](muster)]

    def drop():
        held.clear()
        gc.collect()

    def drop_in_a_grandchild():
        in_child(drop)

    in_child(drop)
    in_child(drop_in_a_grandchild)


ENDS_BY_ITSELF = """
import os, sys
import numpy as np
import muster
view = muster.put(np.ones(3)).get()
work = muster.group("g", rank=0, world_size=2).allreduce(view)
child = os.fork()
if child == 0:
    sys.exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_a_child_may_end_as_any_process_does(muster, tmp_path):
    assert output_of([sys.executable, "-c", ENDS_BY_ITSELF], {**os.environ}, 60, tmp_path) == "0\n"


state = None


def replaced(number):
    global state
    before = float(state.sum())
    state = package.put(np.full(1000, number)).get()
    return before, float(state.sum())


@pytest.fixture
def inherited_state(muster):
    global state
    state = muster.put(np.ones(1000)).get()
    yield
    state = None


@pytest.mark.usefixtures("inherited_state")
class TestWorkersThatReplaceAnInheritedGlobal:
    def test_in_a_pool(self):
        with FORK.Pool(1) as pool:
            assert pool.map_async(replaced, [2, 3]).get(60) == [(1000, 2000), (2000, 3000)]

    def test_in_an_executor(self):
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK) as executor:
            assert list(executor.map(replaced, [2, 3], timeout=60)) == [(1000, 2000), (2000, 3000)]

    def test_in_a_process(self):
        process = FORK.Process(target=replaced, args=(2,))
        process.start()
        process.join(60)
        assert process.exitcode == 0


AFTER_THE_END = """
import os, select, signal
import numpy as np
import muster
muster.init(start=False)
view = muster.put(np.ones(5000)).get()
own = muster.empty(5000)
own[:] = 1
pid = muster.status()["pid"]
end = os.pidfd_open(pid)
os.kill(pid, signal.SIGKILL)
assert select.select([end], [], [], 30)[0]
try:
    muster.status()
    raise AssertionError("the daemon has ended")
except muster.DaemonUnavailable:
    pass
child = os.fork()
if child == 0:
    own[:] = 2
    read = view.sum() == 5000
    view = own = None
    os._exit(0 if read else 1)
print(os.waitpid(child, 0)[1], own.sum())
"""


def test_what_belonged_to_a_daemon_that_is_gone_can_be_read_and_dropped_in_a_child(tmp_path):
    daemon = Daemon("--memory", "64MiB")
    environment = {**os.environ, "MUSTER_SOCKET": daemon.socket}
    printed = output_of([sys.executable, "-c", AFTER_THE_END], environment, 60, tmp_path)
    daemon.kill()
    assert printed == "0 5000.0\n"


def doubled(number):
    return float(np.full(100_000, number * 2.0).sum()), made().copies


class TestForkDuringADecoratedCall:
    def test_the_child_reads_and_writes_the_calls_arrays_for_itself(self, muster):
        @muster.collective_input
        def call():
            arrays = [np.ones(5), np.ones(100_000)]

            def child():
                assert [float(array.sum()) for array in arrays] == [5, 100_000]
                for array in arrays:
                    array += 1
                assert [float(array.sum()) for array in arrays] == [10, 200_000]
                arrays.clear()

            in_child(child)
            return list(arrays)

        ref = call()
        assert (ref.copies, [float(array.sum()) for array in ref.get()]) == (0, [5, 100_000])

    def test_the_child_allocates_outside_of_the_store(self, muster):
        @muster.collective_input
        def call():
            inside = np.ones(100_000)

            def child():
                fresh = [np.ones(count) for count in (5, 100_000, 3_000_000)]
                fresh.append(np.zeros(100_000))
                address = fresh[1].__array_interface__["data"][0]
                assert not package._runtime._connection.owns_address(address)
                inside.resize(200_000, refcheck=False)
                assert float(inside.sum()) == 100_000
                assert float(muster.put(fresh[1]).get().sum()) == 100_000
                assert (made().copies, package.collective_input(lambda: np.ones(9))().copies) == (0, 0)

            in_child(child)
            return inside

        assert call().copies == 0

    @pytest.mark.parametrize("is_async", [False, True])
    def test_the_child_may_return_from_the_call(self, muster, is_async):
        forked = []

        def call():
            array = np.ones(100_000)
            read_end, write_end = os.pipe()
            forked.append((os.fork(), read_end, write_end))
            return {"before": array, "after": np.ones(3)}

        async def call_async():
            return call()

        parent = os.getpid()
        try:
            decorated = muster.collective_input(call_async if is_async else call)
            ref = asyncio.run(decorated()) if is_async else decorated()
            told = (ref.copies, float(ref.get()["before"].sum()), float(ref.get()["after"].sum()))
        except BaseException as error:
            told = error
        child, read_end, write_end = forked[0]
        if os.getpid() != parent:
            os.write(write_end, repr(told).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as answer:
            assert answer.read() == "(2, 100000.0, 3.0)"
        assert os.waitpid(child, 0)[1] == 0
        assert told == (0, 100_000, 3)

    @pytest.mark.parametrize("pool", ["pool", "executor"])
    def test_a_pool_of_forked_workers_works(self, muster, pool):
        @muster.collective_input
        def call():
            array = np.ones(100_000)
            if pool == "pool":
                with FORK.Pool(2) as workers:
                    found = workers.map_async(doubled, [1, 2, 3]).get(60)
            else:
                with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as workers:
                    found = list(workers.map(doubled, [1, 2, 3], timeout=60))
            assert found == [(200_000, 0), (400_000, 0), (600_000, 0)]
            return array

        assert call().copies == 0
