"""The order in which works are completed, in any interleaving of ends of ops, callbacks and time."""

from __future__ import annotations

import random

from muster.torch._order import Entry, Order

PATIENCE = 10


class Run:
    """Plays callbacks and ops, and checks after each event what the order promises."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.order = Order()
        self.now = 0.0
        self.over = set()  # works whose ops are over
        self.came = {}  # by key, works in the order in which they came
        self.begun = {}  # by key, works in the order in which they were completed
        self.running = []
        self.number = 0

    def add(self, parent):
        self.number += 1
        entry = Entry(self.number, None, self.random.choice([None, "a", "b"]), parent)
        self.came.setdefault(entry.key, []).append(entry.work)
        self.order.add(entry, self.now)

    def complete_one(self, only_children=False):
        candidates = self.order.candidates(self.now - PATIENCE, only_children)
        assert not only_children or all(entry.parent is not None for entry in candidates)
        may = [entry for entry in candidates if entry.work in self.over]
        if not may:
            return
        entry = self.random.choice(may)
        assert self.order.is_next(entry)
        beside = [each for each in self.running if each.queue is not None and each.key == entry.key]
        assert all(each.is_stalled(self.now - PATIENCE) for each in beside)
        assert self.order.begin(entry, self.now) == bool(beside)
        assert not self.order.is_next(entry)
        self.begun.setdefault(entry.key, []).append(entry.work)
        self.running.append(entry)

    def check_heads(self):
        for queue in "ab":
            waiting = {
                key: works[len(self.begun.get(key, ())) :] for key, works in self.came.items() if key[1] == queue
            }
            heads, is_running = self.order.heads_of(queue)
            assert sorted(entry.work for entry in heads) == sorted(works[0] for works in waiting.values() if works)
            assert is_running == any(entry.queue == queue for entry in self.running)

    def step(self):
        what = self.random.randrange(7)
        if what == 0 and self.number < 60:
            self.add(self.random.choice([None, *self.running]))
        elif what == 1 and self.number:
            self.over.add(self.random.randint(1, self.number))
        elif what in (2, 3):
            self.complete_one(only_children=self.random.random() < 0.2)
        elif what == 4 and self.running:
            self.end(self.random.choice(self.running))
        elif what == 6 and self.running:
            self.random.choice(self.running).in_ops = self.random.randrange(2)
        elif what == 5:
            self.now += self.random.choice([1, PATIENCE])

    def end(self, entry):
        self.running.remove(entry)
        self.order.end(entry, self.now)

    def finish(self):
        """All ops end, and all callbacks return. A callback may wait for those behind it."""
        self.over = set(range(1, self.number + 1))
        for entry in self.running:
            entry.in_ops = 0
        for _ in range(10 * self.number):
            self.now += PATIENCE
            self.complete_one()
        assert not self.order, "some are never completed"
        for entry in list(self.running):
            self.end(entry)
        assert self.order.running == 0


def test_each_queue_is_completed_in_order_and_everything_is():
    for seed in range(500):
        run = Run(seed)
        for _ in range(300):
            run.step()
            run.check_heads()
        run.finish()
        for key, works in run.begun.items():
            assert key[1] is None or works == run.came[key], seed


def begun(order, queue, parent=None, now=0.0):
    entry = Entry(object(), object(), queue, parent)
    order.add(entry, now)
    order.begin(entry, now)
    return entry


def test_a_queue_waits_for_its_callback_and_for_what_that_waits_for():
    order = Order()
    first = begun(order, "group")
    order.add(Entry(object(), object(), "group"), 0.0)
    assert order.candidates(-1) == []
    assert len(order.candidates(0)) == 1  # it has done nothing for long
    first.in_ops = 1
    assert order.candidates(0) == []
    first.in_ops = 0
    order.add(child := Entry(object(), object(), "group", first), 5.0)
    assert order.candidates(6) == [child]
    order.begin(child, 7.0)
    assert order.candidates(6) == []
    assert len(order.candidates(7)) == 1  # the child's callback has done nothing for long, so neither has its parent's


def test_groups_do_not_wait_for_each_other():
    order = Order()
    begun(order, "group")
    order.add(other := Entry(object(), object(), "another"), 0.0)
    order.add(alone := Entry(object(), object(), None), 0.0)
    assert order.candidates(-1) == [alone, other]


def test_what_is_over_keeps_nothing():
    order = Order()
    first = begun(order, "group")
    second = begun(order, "group", first)
    order.end(first, 0.0)
    order.end(second, 0.0)
    assert (first.work, second.work, second.parent) == (None, None, None)


def test_what_callbacks_wait_for_is_kept_at_the_end():
    order = Order()
    parent = begun(order, "group")
    order.add(kept := Entry(object(), object(), "group", parent), 0.0)
    order.add(Entry(object(), object(), "group"), 0.0)
    order.add(Entry(object(), object(), None), 0.0)
    order.clear(keep=lambda entry: entry.parent is not None)
    assert order.candidates(0) == [kept]
    assert order.candidates(0, only_children=True) == [kept]
