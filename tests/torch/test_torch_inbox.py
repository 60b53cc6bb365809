"""``recv`` from any source, with ranks that are late, wrong, or ask with ever new tags."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import signal
import threading
import time

import muster.torch
import pytest
import torch
import torch.distributed as dist
import worlds
from muster.torch import _inbox


@contextlib.contextmanager
def timeout(seconds):
    """Of this rank's calls."""
    dist.group.WORLD.set_timeout(datetime.timedelta(seconds=seconds))
    try:
        yield
    finally:
        dist.group.WORLD.set_timeout(datetime.timedelta(seconds=30))


def expect_late_rank(rank, count):
    if rank == 1:
        dist.send(torch.full((1,), 1.0), 0)
    if rank > 0:
        dist.barrier()
    if rank == 2:
        dist.send(torch.full((1,), 2.0), 0)
    if rank != 0:
        return None
    got = torch.zeros(1)
    assert worlds.recv_from_any(got) == 1
    with timeout(0.5):
        error = worlds.caught(dist.recv, got, 2)
    dist.barrier()
    dist.recv(got, 2)
    return error, got.item()


def test_a_recv_that_names_its_source_keeps_its_deadline(shared_daemon):
    (code, ranks, message), got = worlds.run(shared_daemon, expect_late_rank, 3)[0]
    assert (code, ranks) == ("Timeout", [2])
    assert "got nothing within 0.5 s" in message
    assert got == 2.0


def wait_in_another_order(rank, count):
    if rank == 1:
        dist.barrier()
        for value in range(4):
            dist.send(torch.full((1,), float(value)), 0)
        dist.barrier()
        return None
    got = [torch.full((1,), -1.0) for _ in range(4)]
    works = [muster.torch.seat().recv_anysource([tensor], 0) for tensor in got]
    del works[1]  # it takes nothing then
    dist.barrier()
    for work in reversed(works):
        work.wait()
    dist.recv(got[1], 1)
    dist.barrier()
    return [tensor.item() for tensor in got], len(muster.torch.seat()._inbox._arrivals)


def test_recvs_from_any_source_get_messages_in_the_order_of_their_calls(shared_daemon):
    assert worlds.run(shared_daemon, wait_in_another_order, 2)[0] == ([0.0, 3.0, 1.0, 2.0], 0)


def receive_after_recvs_that_nobody_answered(rank, count):
    if rank == 1:
        dist.barrier()
        dist.barrier()
        dist.send(torch.full((1,), 7.0), 0, tag=1)
        return None
    _inbox._LONG_S = 0.5
    got = torch.zeros(1)
    with timeout(1.5):
        early = muster.torch.seat().recv_anysource([got], 0)  # opens a recv, which ends before anybody sends
    dist.barrier()
    code, _, _ = worlds.caught(early.wait)
    _inbox._LONG_S = 3600.0
    late = muster.torch.seat().recv_anysource([got], 1)
    dist.barrier()
    assert late.wait()
    return code, got.item()


def test_open_recvs_that_nobody_answered_are_made_again(shared_daemon):
    told = worlds.run(shared_daemon, receive_after_recvs_that_nobody_answered, 2)
    assert told[0] == ("Timeout", 7.0)


def receive_into_no_memory(rank, count):
    if rank == 1:
        dist.send(torch.full((1,), 1.0), 0)
    if rank == 0:
        got = torch.zeros(1)
        assert worlds.recv_from_any(got) == 1  # leaves a recv from rank 2
        code, _, _ = worlds.caught(muster.torch.seat().recv, [torch.ones(1, device="meta")], 2)
    dist.barrier()
    if rank == 2:
        for value in (2.0, 3.0):
            dist.send(torch.full((1,), value), 0)
    if rank != 0:
        return None
    dist.recv(got, 2)
    return code, got.item()


def test_a_recv_that_fails_loses_what_was_sent_to_it_and_nothing_else(shared_daemon):
    assert worlds.run(shared_daemon, receive_into_no_memory, 3)[0] == ("Invalid", 3.0)


def receive_what_could_not_be_sent(rank, count):
    if rank == 1:
        code, _, _ = worlds.caught(muster.torch.seat().send, [torch.ones(1, device="meta")], 0)
        assert code == "Invalid"
        dist.send(torch.full((1,), 5.0), 0)
    if rank != 0:
        return None
    got = torch.zeros(1)
    error = worlds.caught(worlds.recv_from_any, got)
    return error, worlds.recv_from_any(got), got.item()


def test_a_send_that_failed_is_told_once(shared_daemon):
    (code, _, message), source, got = worlds.run(shared_daemon, receive_what_could_not_be_sent, 3)[0]
    assert code == "Invalid"
    assert "meta" in message
    assert (source, got) == (1, 5.0)


def receive_with_ever_new_tags(rank, count):
    got, found = torch.zeros(1), None
    for tag in range(511):
        if rank == 1:
            dist.send(torch.ones(1), 0, tag=tag)
        elif rank == 0:
            worlds.recv_from_any(got, tag)
    if rank == 0:
        found = worlds.caught(worlds.recv_from_any, got, 511)
        dist.recv(got, 1, tag=511)
    elif rank == 1:
        dist.send(torch.ones(1), 0, tag=511)
    dist.all_reduce(got)
    return found


def test_recvs_that_nobody_takes_are_bounded(shared_daemon):
    code, _, message = worlds.run(shared_daemon, receive_with_ever_new_tags, 3)[0]
    assert code == "QuotaExceeded"
    assert "511 tags" in message


def give_up_and_receive(rank, ranks, is_asked, is_held):
    """A recv of rank 0 that has timed out gets nothing of what is sent later."""
    if rank == 1:
        dist.barrier()
        for value in (1.0, 2.0):
            dist.send(torch.full((1,), value), 0)
        dist.barrier()
        return None
    got, seat = torch.zeros(1), muster.torch.seat()
    with timeout(0.3):
        assert worlds.caught(seat.recv_anysource([got], 0).wait)[0] == "Timeout"  # leaves an open recv
        works = [seat.recv([torch.zeros(1)], 1) for _ in range(2)]
    for work in works:
        ends = worlds.caught(work.wait)[0] if is_asked else time.sleep(0.4)
        assert ends in ("Timeout", None)
    if not is_held:
        del works, work
    dist.barrier()
    found = []
    for _ in range(2):
        dist.recv(got, 1)
        found.append(got.item())
    dist.barrier()
    return found, [worlds.caught(work.wait)[0] for work in works] if is_held else None


@pytest.mark.parametrize(("is_asked", "is_held"), [(True, True), (False, True), (False, False)])
def test_a_recv_that_timed_out_gets_nothing_later(shared_daemon, is_asked, is_held):
    found, late = worlds.run(shared_daemon, give_up_and_receive, 2, is_asked, is_held)[0]
    assert found == [1.0, 2.0]
    assert late == (["Timeout"] * 2 if is_held else None)


def receive_beside_one_that_times_out(rank, ranks):
    if rank == 1:
        dist.barrier()
        for value in (1.0, 2.0):
            dist.send(torch.full((1,), value), 0)
        return None
    seat, first, second = muster.torch.seat(), torch.zeros(1), torch.zeros(1)
    with timeout(0.3):
        assert worlds.caught(seat.recv_anysource([first], 0).wait)[0] == "Timeout"
        gives_up = seat.recv([torch.zeros(1)], 1)
    waits = seat.recv([first], 1)
    assert worlds.caught(gives_up.wait)[0] == "Timeout"
    dist.barrier()
    waits.wait()
    dist.recv(second, 1)
    return first.item(), second.item()


def test_a_recv_behind_one_that_times_out_gets_what_comes_first(shared_daemon):
    assert worlds.run(shared_daemon, receive_beside_one_that_times_out, 2)[0] == (1.0, 2.0)


class Recv:
    """What a seat's recv returns. Something has come, and whoever asks for it first is held up."""

    def __init__(self):
        self.is_asked, self.goes_on, self.is_over = threading.Event(), threading.Event(), False

    def done(self):
        if self.is_over:
            self.is_asked.set()
            assert self.goes_on.wait(worlds.PATIENCE_S)
        return self.is_over

    def exception(self):
        return None

    def result(self):
        return "what was sent"


class Seat:
    world_size, rank, live = 2, 0, (0, 1)

    def recv(self, source, tag, timeout):
        self.given = Recv()
        return self.given


@pytest.mark.parametrize("ask", ["from_one", "from_any"])
def test_what_comes_at_the_deadline_is_not_lost(ask):
    seat = Seat()
    inbox = _inbox.Inbox(seat)
    inbox.heads(0)
    call = inbox.from_one(1, 0, 60) if ask == "from_one" else inbox.from_any(0, 60)
    seat.given.is_over = True
    thread = threading.Thread(target=call.done)
    thread.start()
    assert seat.given.is_asked.wait(worlds.PATIENCE_S)
    call.deadline = 0
    with pytest.raises(muster.Timeout):
        call.result()
    seat.given.goes_on.set()
    thread.join()
    assert inbox.from_one(1, 0, 60).result() == "what was sent"
    with pytest.raises(muster.Timeout):
        call.result()


class Raised(Exception):
    pass


def raise_it(_number, _frame):
    raise Raised


def ask_until_the_timer_raises(call):
    signal.setitimer(signal.ITIMER_REAL, 20e-6)
    while not call.done():
        pass


@pytest.mark.parametrize("ask", ["from_one", "from_any"])
def test_a_handler_may_raise_whenever_the_inbox_is_asked(ask):
    inbox = _inbox.Inbox(Seat())
    inbox.heads(0)
    call = inbox.from_one(1, 0, 60) if ask == "from_one" else inbox.from_any(0, 60)
    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        for _ in range(500):
            with pytest.raises(Raised):
                ask_until_the_timer_raises(call)
    finally:
        signal.signal(signal.SIGALRM, before)
    with concurrent.futures.ThreadPoolExecutor() as another:
        assert another.submit(inbox._lock.acquire, blocking=False).result()
