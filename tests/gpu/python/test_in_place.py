"""Arrays that stay where their owner has allocated them, among processes that read them, sum them, and die."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import PATIENCE_S, eventually, muster, status, workers

HERE = Path(__file__).parent

# Each program answers lines of Python, with what they evaluate to.
PROGRAM = """
import gc, pickle, sys
import driver, muster
import numpy as np

muster.init()
freed = []


class Tensor:
    '''As a library has it that allocates by cudaMalloc, or from a pool of the driver's.'''

    def __init__(self, values, malloc=driver.malloc, skip=0):
        self.address = malloc(0, values.nbytes + 256)
        driver.write(0, self.address + skip, values.tobytes())
        self.name = float(values.flat[0])
        self.__cuda_array_interface__ = {
            "version": 3, "shape": values.shape, "typestr": values.dtype.str, "strides": None,
            "data": (self.address + skip, False),
        }

    def __del__(self):
        freed.append(self.name)
        driver.free(0, self.address)


def of_pool(ordinal, size):
    import ctypes
    driver.use_device(ordinal)
    address = ctypes.c_uint64()
    driver.call("cuMemAllocAsync", ctypes.byref(address), ctypes.c_size_t(size), None)
    driver.call("cuCtxSynchronize")
    return address.value


def tensor(value, count=1000, **more):
    return Tensor(np.full(count, value, np.float32), **more)


def once_more():
    '''Does an op by the worker, and hears of it: of what the worker was told before, too.'''
    ref = muster.put(np.ones(4, np.float32), device="cuda:0")
    muster.allreduce_refs([ref, ref]).result()
    muster.put(0)


kept = []


def fill():
    '''Takes all that the store has on the GPU.'''
    for size in (32 << 20, 2 << 20):
        try:
            while True:
                kept.append(muster.put(np.ones(size, np.uint8), device="cuda:0", timeout=0))
        except muster.OutOfMemory:
            pass


def freed_in_a_child():
    import os
    pid = os.fork()
    if pid == 0:
        try:
            globals().pop("ref", None)
            muster.init()
            muster.put(0)
            gc.collect()
            os._exit(len(freed))
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def freed_by_now():
    muster.put(0)
    gc.collect()
    return freed


print("ready", flush=True)
for line in sys.stdin:
    try:
        try:
            answer = eval(line)
        except SyntaxError:
            answer = exec(line)
    except muster.Error as error:
        answer = f"{type(error).__name__}: {error}"
    print(pickle.dumps(answer).hex(), flush=True)
"""


class Program:
    def __init__(self, environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        return pickle.loads(bytes.fromhex(self.process.stdout.readline()))

    def ask(self, line):
        self.say(line)
        return self.hear()

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=PATIENCE_S)

    def end(self):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def environment(machine_with, tmp_path):
    """The environment of programs that use a daemon of their own, on a machine with one GPU."""
    machine = machine_with(1)
    path = f"{HERE / 'stand_ins'}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**machine.environment, "MUSTER_SOCKET": str(tmp_path / "socket"), "PYTHONPATH": path}
    # A pickle keeps its object for the moment only in which it is handed over.
    muster(environment, "start", "--memory", "256MiB", "--pickle-lease", "1")
    yield environment
    muster(environment, "stop")
    machine.check_books()


@pytest.fixture
def program(environment):
    programs = []

    def started():
        programs.append(Program(environment))
        return programs[-1]

    yield started
    for one in programs:
        one.end()


def objects(environment):
    return json.loads(muster(environment, "ls", "--json"))


def handed_over(owner, reader, value=2.0, name="ref"):
    """The owner leaves a tensor in place, and the reader gets a ref to it."""
    owner.ask(f"{name} = muster.put(tensor({value}), in_place=True)")
    assert owner.ask(f"({name}.copies, {name}.copy_reasons, {name}.device)") == (0, {}, "cuda:0")
    reader.ask(f"{name} = pickle.loads({owner.ask(f'pickle.dumps({name})')!r})")


def test_others_read_it_where_it_is(program, environment):
    owner, reader = program(), program()
    handed_over(owner, reader)
    assert status(environment)["gpus"][0]["memory_used_bytes"] == 0
    assert status(environment)["in_place"] == 1
    (row,) = objects(environment)["objects"]
    assert (row["in_place"], row["lost"], row["pins_bytes"]) == (True, False, 0)
    assert "in place" in muster(environment, "ls")
    assert reader.ask("ref.get().to_host().sum()") == 2000
    # The owner reads its own memory, at its own address.
    assert owner.ask("ref.get().to_host().sum()") == 2000


def test_a_full_store_has_room_for_it(program):
    owner, other = program(), program()
    other.ask("fill()")
    assert "OutOfMemory" in owner.ask("muster.put(tensor(1.0), timeout=0)")
    owner.ask("ref = muster.put(tensor(2.0), in_place=True, timeout=1)")
    assert owner.ask("(ref.copies, ref.get().to_host().sum())") == (0, 2000)


def test_the_owner_keeps_it_as_long_as_somebody_needs_it(program, environment):
    owner, reader = program(), program()
    handed_over(owner, reader)
    reader.ask("array = ref.get()")
    owner.ask("del ref")
    owner.ask("once_more()")
    assert owner.ask("freed_by_now()") == []
    reader.ask("del ref")
    owner.ask("once_more()")
    assert owner.ask("freed_by_now()") == []
    assert reader.ask("array.to_host().sum()") == 2000
    reader.ask("del array")
    reader.ask("muster.put(0)")
    eventually(lambda: owner.ask("freed_by_now()"), [2.0])
    assert status(environment)["in_place"] == 0


def test_arrays_of_one_allocation_are_one(program, environment):
    owner, reader = program(), program()
    owner.ask("t = tensor(3.0)")
    owner.ask("class View: pass")
    owner.ask("v = View(); v.base = t; v.__cuda_array_interface__ = {**t.__cuda_array_interface__, 'shape': (10,)}")
    owner.ask("ref = muster.put({'a': t, 'b': [v]}, in_place=True)")
    assert owner.ask("ref.copies") == 0
    assert status(environment)["in_place"] == 1
    owner.ask("again = muster.put(t, in_place=True)")
    assert status(environment)["in_place"] == 2
    reader.ask(f"refs = pickle.loads({owner.ask('pickle.dumps([ref, again])')!r})")
    reader.ask("first, second = [ref.get() for ref in refs]")
    assert reader.ask("(first['b'][0].to_host().sum(), second.to_host().sum())") == (30, 3000)
    # The driver has opened it once in this process, and closes it with the last array.
    reader.ask("del first, refs")
    assert reader.ask("second.to_host().sum()") == 3000


def test_what_cuda_cannot_share_is_copied(program, environment):
    owner = program()
    owner.ask("value = {'pool': tensor(1.0, malloc=of_pool), 'plain': tensor(2.0), 'host': np.ones(3)}")
    owner.ask("ref = muster.put(value, in_place=True)")
    assert owner.ask("ref.copies") == 2
    reasons = owner.ask("ref.copy_reasons")
    assert set(reasons) == {"pool", "host"}
    assert "legacy IPC" in reasons["pool"]
    assert "on the host" in reasons["host"]
    assert owner.ask("ref.get()['pool'].to_host().sum()") == 1000
    # What lies in the store already, and what another process has left in place.
    assert "in the store" in owner.ask("muster.put(ref.get()['plain'], in_place=True).copy_reasons['']")
    owner.ask("own = muster.put(np.ones(3), device='cuda:0').get()")
    owner.ask("class View: pass")
    owner.ask("v = View(); v.base = own; v.__cuda_array_interface__ = own.__cuda_array_interface__")
    assert "legacy IPC" in owner.ask("muster.put(v, in_place=True).copy_reasons['']")
    reader = program()
    reader.ask(f"other = pickle.loads({owner.ask('pickle.dumps(ref)')!r}).get()['plain']")
    reader.ask("class View: pass")
    reader.ask("v = View(); v.base = other; v.__cuda_array_interface__ = other.__cuda_array_interface__")
    assert "legacy IPC" in reader.ask("muster.put(v, in_place=True).copy_reasons['']")
    assert owner.ask("muster.put(Tensor(np.ones(9, 'f4'), skip=2), in_place=True).copy_reasons['']").count("C order")


def test_ops_read_it_where_it_is(program):
    owner, other = program(), program()
    handed_over(owner, other)
    other.ask("mine = muster.put(tensor(5.0), in_place=True)")
    assert other.ask("muster.allreduce_refs([ref, mine]).result().to_host()[0]") == 7.0
    for rank, one in enumerate((owner, other)):
        one.ask(f"group = muster.group('g', rank={rank}, world_size=2)")
    owner.ask("work = group.allreduce(muster.put(tensor(1.0), in_place=True))")
    other.ask("work = group.allreduce(muster.put(tensor(2.0)))")
    assert [one.ask("work.result().to_host()[0]") for one in (owner, other)] == [3.0, 3.0]
    # What need not be changed is given as it is.
    owner.ask("work = group.broadcast(ref)")
    other.ask("work = group.broadcast(None)")
    assert other.ask("work.result().to_host()[0]") == 2.0


def test_it_is_lost_with_its_owner(program, environment):
    owner, reader = program(), program()
    handed_over(owner, reader)
    handed_over(owner, reader, 4.0, "held")
    owner.ask("copied = muster.put(tensor(9.0))")
    reader.ask(f"copied = pickle.loads({owner.ask('pickle.dumps(copied)')!r})")
    reader.ask("array = held.get()")
    reader.ask("mine = muster.put(tensor(5.0))")
    owner.kill()
    eventually(lambda: len([row for row in objects(environment)["objects"] if row["lost"]]), 2)
    for line in ("ref.get()", "pickle.loads(pickle.dumps(ref))", "muster.allreduce_refs([ref, mine]).result()"):
        answer = reader.ask(line)
        assert answer.startswith("ObjectLost"), answer
        assert "left in place" in answer
    assert reader.ask("copied.get().to_host()[0]") == 9.0
    assert reader.ask("muster.allreduce_refs([copied, mine]).result().to_host()[0]") == 14.0
    reader.ask("del ref, held, array")
    reader.ask("muster.put(0)")
    eventually(lambda: status(environment)["in_place"], 0)


def test_an_owner_dies_while_its_op_runs(program, environment):
    owner, other = program(), program()
    handed_over(owner, other)
    other.ask("mine = muster.put(tensor(5.0))")
    other.ask("spare = muster.put(tensor(6.0))")
    pid = workers(environment)[0]
    os.kill(pid, signal.SIGSTOP)
    other.ask("work = muster.allreduce_refs([ref, mine])")
    owner.kill()
    eventually(lambda: any(row["lost"] for row in objects(environment)["objects"]), True)
    os.kill(pid, signal.SIGCONT)
    answer = other.ask("work.result()")
    assert answer.startswith("ObjectLost"), answer
    # It may have cost the worker, and costs nobody else anything.
    assert other.ask("muster.allreduce_refs([spare, mine]).result().to_host()[0]") == 11.0


def test_an_owner_dies_before_its_op_is_complete(program):
    owner, first, second = program(), program(), program()
    for rank, one in enumerate((owner, first, second)):
        one.ask(f"group = muster.group('g', rank={rank}, world_size=3)")
    owner.ask("work = group.allreduce(muster.put(tensor(1.0), in_place=True))")
    first.ask("work = group.allreduce(muster.put(tensor(2.0)))")
    owner.kill()
    second.ask("work = group.allreduce(muster.put(tensor(2.0)))")
    answers = [one.ask("work.result()") for one in (first, second)]
    assert answers[0] == answers[1]
    assert answers[0].startswith("ObjectLost"), answers
    assert "allreduce" in answers[0]


def test_another_worker_opens_it_again(program, environment):
    owner, other = program(), program()
    handed_over(owner, other)
    pid = workers(environment)[0]
    os.kill(pid, signal.SIGKILL)
    # What was asked of the worker that was killed fails.
    eventually(lambda: other.ask("mine = muster.put(tensor(5.0), device='cuda:0')"), None)
    eventually(lambda: other.ask("muster.allreduce_refs([ref, mine]).result().to_host()[0]"), 7.0)
    assert workers(environment)[0] != pid
    owner.ask("del ref")
    other.ask("del ref")
    eventually(lambda: owner.ask("freed_by_now()"), [2.0])


def test_a_worker_that_dies_has_closed_it(program, environment):
    owner = program()
    owner.ask("ref = muster.put(tensor(2.0), in_place=True)")
    pid = workers(environment)[0]
    os.kill(pid, signal.SIGSTOP)
    owner.ask("del ref")
    assert owner.ask("freed_by_now()") == []
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: owner.ask("freed_by_now()"), [2.0])


def test_a_forked_child_of_the_owner_frees_nothing(program):
    owner, reader = program(), program()
    handed_over(owner, reader)
    assert owner.ask("freed_in_a_child()") == 0
    assert reader.ask("ref.get().to_host().sum()") == 2000
    assert owner.ask("freed_by_now()") == []
