"""``MusterWork``: an op that was started through torch. Who waits for it copies the result into the tensors."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist

from muster.errors import Error, Timeout
from muster.torch import _completions
from muster.torch._errors import copy_of, of_torch
from muster.torch._tensors import gpus_of


class Op(Protocol):
    """What a work needs of an op: a ``muster.Work`` has it."""

    def done(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def result(self, timeout: float | None = None) -> Any: ...


class MusterWork(dist.Work):  # type: ignore[misc]
    """An op. Its result is in the tensors once ``wait()`` returns, ``is_completed()`` is true, or its future is done.

    Errors are ``DistBackendError`` and the error of Muster in one.
    """

    def __init__(
        self, name: str, op: Op, write: Callable[[Any], None], outputs: Sequence[Any], source: int = -1
    ) -> None:
        super().__init__()
        self._name = name
        self._op: Op | None = op
        self._write: Callable[[Any], None] | None = write
        self._outputs = list(outputs)
        self._source = source
        self._error: BaseException | None = None
        self._future: Any = None  # until it is done
        self._watched: Any = None  # the future that a thread will complete
        self._on_error: Callable[[BaseException], None] | None = None
        self._queue: Hashable = None
        self._lock = threading.RLock()  # a handler of signals may interrupt a copy, and ask this work, too
        self._is_taking = False  # the thread that has the lock takes the outcome

    def wait(self, timeout: datetime.timedelta = datetime.timedelta(0)) -> bool:
        """Waits until the op is over, and raises its error. ``timeout`` bounds this wait only; 0 is none.

        Raises:
            DistBackendError: the op failed, or ``timeout`` passed. It is a ``muster.Error``, too.
            TypeError: ``timeout`` is no ``timedelta``.
        """
        if not isinstance(timeout, datetime.timedelta):
            raise TypeError(f"timeout is a datetime.timedelta, not {timeout!r}")
        op, seconds = self._op, timeout.total_seconds()
        if op is not None and seconds > 0:
            is_over = _completions.in_op(lambda: op.wait(seconds))
            if not is_over and self._op is not None:
                raise of_torch(self._too_long(op, seconds))
        self._settle()
        self._raise()
        return True

    def _too_long(self, op: Op, seconds: float) -> Error:
        """Says whom the op still waits for, if it can."""
        missing: list[int] = []
        try:
            op.result(0)
        except Timeout as error:
            missing = error.ranks
        except Error as error:
            return error
        names = f"; still missing: rank {', '.join(map(str, missing))}" if missing else ""
        return Timeout(f"{self._name} was not over after {seconds:g} s{names}", "wait longer; the op goes on", missing)

    def _raise(self) -> None:
        if self._error is not None:
            raise copy_of(self._error)  # it may be raised again, and must not grow

    def end_within(self, seconds: float) -> None:
        """Lets the op end, and takes its outcome, if that comes in time. Does not wait if there is no time left."""
        op = self._op
        if op is not None and (op.wait(seconds) if seconds > 0 else op.done()):
            self._settle()

    def complete(self) -> None:
        """Takes the outcome of the op, and calls what hangs on the future."""
        self._settle()
        with self._lock:
            future, self._future, self._watched = self._future, None, None
        if future is not None:
            future.set_result(None)

    def _settle(self) -> None:
        """Takes the outcome of the op, once. Waits for it."""
        op = self._op
        if op is None:
            return
        # Outside of the lock: others may ask this work meanwhile.
        outcome = _completions.in_op(lambda: _outcome_of(op))
        with self._lock:
            self._take(op, *outcome)
            is_left = self._watched is not self._future
        if is_left:
            self.complete()  # one that no thread was to be had for

    def _take(self, op: Op, value: Any, error: Exception | None) -> None:
        write = self._write
        if write is None:  # a handler of signals has asked this work meanwhile
            return
        self._is_taking = True
        try:
            if error is not None:
                raise error
            write(value)
            self._source = getattr(op, "source", self._source)
        except Exception as failed:
            self._error = copy_of(of_torch(failed))
            if self._on_error is not None:
                self._on_error(self._error)
        finally:
            self._is_taking = False
        # The object in the store is free for others from here on.
        self._op = self._write = None

    def is_completed(self) -> bool:
        """Whether the op is over. Then the result is in the tensors."""
        op = self._op
        if op is not None:
            if not op.done():
                return False
            self._settle()
        return True

    def is_success(self) -> bool:
        """Whether the op is over, and well."""
        return self.is_completed() and self._error is None

    def exception(self) -> BaseException | None:
        """The op's error, once it is over."""
        self.is_completed()
        return self._error

    def result(self) -> list[Any]:
        """The tensors that the op writes. Waits for it."""
        self.wait()
        return self._outputs

    def synchronize(self) -> None:
        """Waits. The result is there for all streams then."""
        self.wait()

    def started_by(self, on_error: Callable[[BaseException], None], queue: Hashable = None) -> MusterWork:
        """Lets a function see the op's error. Futures of works of one ``queue`` are done in order. Returns itself."""
        self._on_error = on_error
        self._queue = queue
        return self

    def get_future(self) -> Any:
        """Returns a future of the tensors. A background thread copies the result into them when the op is over.

        The future's error is a RuntimeError with the text of the op's, as torch has no other for callbacks that raise.
        ``exception()`` and the group's ``errored()`` have the error itself.

        Raises:
            QuotaExceeded: a callback of a future calls this, and too many of them wait; or the system has no thread.
        """
        with self._lock:
            if self._is_taking:  # a handler of signals has interrupted this, and other threads wait for it
                self._settle()
            op = self._op
            if self._future is None:
                self._future = torch.futures.Future(devices=gpus_of(self._outputs))
            over = self._future
        # DDP takes an exception that set_exception() stores for a value. One that a callback raises is an error for it.
        tensors = over.then(self._value)
        if self._watched is over:
            return tensors
        # Until it is said below that a thread will complete the work, others may say it, too. It is completed once.
        if op is not None and self._is_watched(op):
            self._watched = over
        else:
            self.complete()
        return tensors

    def _is_watched(self, op: Op) -> bool:
        """Lets a thread complete this work, if there is one."""
        try:
            return _completions.watch(self, op, self._queue)
        except Error as error:
            raise of_torch(error) from None

    def _value(self, _: Any) -> list[Any]:
        self._raise()
        return self._outputs

    def source_rank(self) -> int:
        """The rank that sent what a ``recv`` got, once it is over."""
        return self._source

    def _source_rank(self) -> int:
        return self._source

    def _get_op_type(self) -> str:
        return self._name

    def __repr__(self) -> str:
        state = "pending" if self._op is not None else "done" if self._error is None else type(self._error).__name__
        return f"<MusterWork: {self._name}, {state}>"


def _outcome_of(op: Op) -> tuple[Any, Exception | None]:
    """Returns what the op ends with: a value, or an error."""
    try:
        return op.result(), None
    except Exception as error:
        return None, error
