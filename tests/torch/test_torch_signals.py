"""Handlers of signals. Python calls them in the main thread, wherever that is, also in code of muster.torch."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from unittest import mock

import muster.torch
import pytest
import torch
import torch.distributed as dist
import worlds
from muster.torch import _calls, _completions


def begin(*arguments, **options):
    return dist.all_reduce(*arguments, async_op=True, **options).get_future()


@contextlib.contextmanager
def signalled(handler, place, name):
    """A signal comes once, when the main thread calls the function of that name."""
    function, is_sent = getattr(place, name), threading.Event()

    def interrupted(*arguments, **options):
        if threading.current_thread() is threading.main_thread() and not is_sent.is_set():
            is_sent.set()
            signal.raise_signal(signal.SIGUSR1)
        return function(*arguments, **options)

    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    with mock.patch.object(place, name, interrupted):
        yield is_sent
    signal.signal(signal.SIGUSR1, before)


#: Functions that the main thread calls while it asks for a future, waits for a work, and ends a group.
PLACES = {
    "asks for a thread": (_completions._Completer, "_make_sure_of_a_thread"),
    "hands a work over": (_completions._Completer, "watch"),
    "wakes the thread": (_completions._Completer, "wake"),
    "copies a result": (_calls, "write"),
    "waits for callbacks": (_completions._Completer, "wait_for"),
}


def handle_anywhere(rank, ranks, place):
    """The handler waits for ops by futures, one after the other, and begins one more, which nobody waits for."""
    other, ends, kept = dist.new_group(), dist.new_group(), []

    def handler():
        for _ in range(5):
            assert begin(torch.ones(1), group=other).wait()[0].item() == ranks
        kept.append(dist.all_reduce(torch.ones(1), group=other, async_op=True))

    with signalled(handler, *PLACES[place]) as is_sent:
        assert begin(torch.ones(1)).wait()[0].item() == ranks
        tensor = torch.ones(1)
        dist.all_reduce(tensor)
        dist.destroy_process_group(ends)
    assert is_sent.is_set()
    kept.pop().wait()
    return tensor.item()


@pytest.mark.parametrize("place", PLACES)
def test_a_handler_may_wait_for_futures_while_the_main_thread(shared_daemon, place):
    assert worlds.run(shared_daemon, handle_anywhere, 2, place) == [2, 2]


def ask_what_is_copied(rank, ranks):
    told, work = [], muster.torch.seat().allreduce([torch.ones(1)])
    with signalled(lambda: told.append(work.get_future().wait()[0].item()), _calls, "write"):
        work.wait()
    return told[0]


def test_a_handler_may_ask_for_a_future_of_the_work_that_is_copied(shared_daemon):
    assert worlds.run(shared_daemon, ask_what_is_copied, 2) == [2.0, 2.0]


class Interrupted(BaseException):
    """As KeyboardInterrupt, which no code of ours may take for an error."""


def interrupt():
    raise Interrupted


def ask_again(rank, ranks, place, name):
    work = dist.all_reduce(torch.ones(1), async_op=True)
    with signalled(interrupt, place, name), pytest.raises(Interrupted):
        work.get_future()
    return work.get_future().wait()[0].item()


@pytest.mark.parametrize(
    ("place", "name"),
    [(torch.futures.Future, "then"), (_completions._Completer, "_start"), (_completions._Completer, "wake")],
)
def test_a_future_may_be_asked_for_again_when_the_first_call_was_interrupted(shared_daemon, place, name):
    assert worlds.run(shared_daemon, ask_again, 2, place, name) == [2, 2]


def interrupt_again_and_again(rank, ranks, seconds):
    """Each signal of a timer interrupts the program or is not raised at all: none is swallowed."""
    caught, until = [], time.monotonic() + seconds

    def handler(*_):
        handler.raised += 1
        raise Interrupted

    handler.raised = 0
    signal.signal(signal.SIGALRM, handler)
    while time.monotonic() < until:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            while True:
                dist.all_reduce(torch.ones(1), async_op=True).get_future()
        except Interrupted:
            caught.append(1)
    return handler.raised - len(caught)


def test_what_a_handler_raises_is_not_lost_where_ops_end(shared_daemon):
    """Ops end while the main thread begins others, and it writes what wakes the thread that completes them."""
    assert worlds.run(shared_daemon, interrupt_again_and_again, 1, 2.0) == [0]
