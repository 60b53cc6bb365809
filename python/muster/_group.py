"""Groups: a process's seat in a named set of ranks, and the collectives among them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from muster import _muster, _runtime
from muster._checks import flag, size
from muster._forfeit import takes_its_place
from muster._inputs import are_integers, elements, is_list, parts, stored
from muster._names import name_here
from muster._ops import reduce_op
from muster._out import check_out, check_out_of_reduction
from muster._stand_in import Made
from muster._words import one_of
from muster._work import About, Work
from muster.errors import Error, GroupClosed, Invalid

#: The end of the interpreter frees groups, and must not look like leave().
atexit.register(_muster.process_ends)


class Group(metaclass=Made):
    """This process's seat in a group. Every collective returns at once with a ``Work``.

    An input is a ``Ref``, an array, a scalar, or a nesting of them; values are put into the store first. For reductions
    all ranks give the same structure and shapes. Ops match by the order of calls, or by equal ``key``.

    All collectives take ``timeout`` (seconds; the op's deadline, by default the group's) and ``key`` (str). Collectives
    with a result also take ``out``: writable arrays with the result's nesting and shapes, and with dtypes that lose
    nothing. The result is copied into them.

    Reduce ops and the dtype of their results: "sum" and "prod" keep the dtype (bool: int64); "mean" keeps it, too
    (integers and bool: float64); "min" and "max" keep it (not complex); "band", "bor" and "bxor" keep it (integers and
    bool only); "land" and "lor" give bool. Integers overflow and NaN spreads as in NumPy. float16 and bfloat16 are
    summed in float32. Folds run in rank order, so that equal inputs give equal bits.

    Raises:
        Invalid: an argument, or an input that can't be stored, at once.
        OutOfMemory: no room for an input that had to be copied in, within the op's timeout (raised by this call).
        GroupClosed: after ``leave()``.

    A call that raises at once still takes its place in the order of ops: the op fails on every other rank, with this
    rank and its reason, and the next ops of all ranks match.

    All other errors are outcomes of the op; ``Work.result`` raises them on every rank: ``Timeout`` (names the ranks
    that did not come), ``Mismatch`` (ranks disagree on kind, dtype, shape, root or reduce op), ``PeerLost``,
    ``OutOfMemory`` (no room for the result), ``DaemonUnavailable``.
    """

    def __init__(self, native: _muster.Group) -> None:
        if not isinstance(native, _muster.Group):
            raise Invalid(f"muster.Group({native!r}) is not a seat", "take a seat by muster.group()")
        self._native = native
        self._name = native.name

    @property
    def name(self) -> str:
        """The name given to ``group()``. ``split`` and ``subgroup`` derive the names of new groups from it."""
        return self._name

    @property
    def rank(self) -> int:
        """This process's rank, 0 to world_size - 1; a loss does not renumber it."""
        return self._native.rank

    @property
    def world_size(self) -> int:
        """How many ranks the group was made for, lost ones included."""
        return self._native.world_size

    @property
    def epoch(self) -> int:
        """Counts the epochs of the group; a reform begins a new one."""
        return self._native.epoch

    @property
    def live(self) -> list[int]:
        """The ranks that are not lost, in rising order."""
        return list(self._native.live)

    @property
    def position(self) -> int:
        """The sequence number of this rank's next op that is matched by order."""
        return self._native.position

    @property
    def owes(self) -> list[tuple[str, int, str]]:
        """The ops that wait for this rank after it took a lost rank's seat: (kind, sequence number, key) of each."""
        return list(self._native.owes)

    @takes_its_place
    def allreduce(
        self, x: Any, op: Any = "sum", *, timeout: float | None = None, out: Any = None, key: str = ""
    ) -> Work:
        """Reduces elementwise over the ranks, in rank order; every rank gets the reduction."""
        given, number = stored(self._native, x, timeout), reduce_op(op)
        check_out_of_reduction(out, given, number)
        return Work(self._native.allreduce(given, number, timeout, key), self._about("allreduce", key), out)

    @takes_its_place
    def reduce(
        self, x: Any, root: int = 0, op: Any = "sum", *, timeout: float | None = None, out: Any = None, key: str = ""
    ) -> Work:
        """Reduces like ``allreduce``; only ``root`` gets the reduction, the others None."""
        root = _muster.integer(root, "root")
        given, number = stored(self._native, x, timeout), reduce_op(op)
        if self.rank == root:
            check_out_of_reduction(out, given, number)
        return Work(self._native.reduce(given, root, number, timeout, key), self._about("reduce", key, root), out)

    @takes_its_place
    def scan(self, x: Any, op: Any = "sum", *, timeout: float | None = None, out: Any = None, key: str = "") -> Work:
        """Inclusive prefix reduction: rank r gets the reduction over ranks 0 to r."""
        given, number = stored(self._native, x, timeout), reduce_op(op)
        check_out_of_reduction(out, given, number)
        return Work(self._native.scan(given, number, timeout, key), self._about("scan", key), out)

    @takes_its_place
    def broadcast(
        self, x: Any = None, root: int = 0, *, timeout: float | None = None, out: Any = None, key: str = ""
    ) -> Work:
        """Every rank gets the root's ``x``; nothing is moved. Other ranks' ``x`` is ignored."""
        check_out(out)
        root = _muster.integer(root, "root")
        given = [stored(self._native, x, timeout)] if self.rank == root else []
        return Work(self._native.broadcast(given, root, timeout, key), self._about("broadcast", key, root), out)

    @takes_its_place
    def allgather(
        self, x: Any, stack: bool = False, *, timeout: float | None = None, out: Any = None, key: str = ""
    ) -> Work:
        """Every rank gets a list of world_size values, in rank order; nothing is moved, and shapes may differ.

        With ``stack=True`` it is one array with a new axis 0 of length world_size; dtype and shape must agree.
        """
        check_out(out)
        return Work(
            self._native.allgather(stored(self._native, x, timeout), flag("stack", stack), timeout, key),
            self._about("allgather", key),
            out,
        )

    @takes_its_place
    def gather(self, x: Any, root: int = 0, *, timeout: float | None = None, out: Any = None, key: str = "") -> Work:
        """Like ``allgather``, for ``root`` only; the others get None."""
        check_out(out)
        return Work(
            self._native.gather(stored(self._native, x, timeout), root, timeout, key),
            self._about("gather", key, root),
            out,
        )

    @takes_its_place
    def scatter(
        self, xs: Any = None, root: int = 0, *, timeout: float | None = None, out: Any = None, key: str = ""
    ) -> Work:
        """Rank r gets element r of the root's list of world_size values; nothing is moved."""
        check_out(out)
        root = _muster.integer(root, "root")
        given = elements(self._native, xs, timeout) if self.rank == root else []
        return Work(self._native.scatter(given, root, timeout, key), self._about("scatter", key, root), out)

    @takes_its_place
    def reduce_scatter(
        self, x: Any, op: Any = "sum", *, timeout: float | None = None, out: Any = None, key: str = ""
    ) -> Work:
        """Rank r gets the reduction of part r: of every rank's list of world_size values, or of one array whose axis 0
        is split evenly (its length must be a multiple of world_size)."""
        check_out(out)
        return Work(
            self._native.reduce_scatter(parts(self._native, x, timeout), reduce_op(op), timeout, key),
            self._about("reduce_scatter", key),
            out,
        )

    @takes_its_place
    def all_to_all(
        self,
        xs: Any,
        *,
        splits: Sequence[int] | None = None,
        timeout: float | None = None,
        out: Any = None,
        key: str = "",
    ) -> Work:
        """Rank r gets element r of every rank's list: a list of world_size values, in rank order; nothing is moved.

        One array is split along axis 0, by ``splits`` rows for each rank or evenly; the result is then one array too.
        """
        check_out(out)
        whole = not is_list(xs)
        if splits is not None and not whole:
            raise Invalid("splits= goes with one array, not with a list", "leave splits out")
        if splits is not None and not are_integers(splits):
            raise Invalid(f"splits={splits!r} is not valid", "give a list with a number of rows for each rank")
        return Work(
            self._native.all_to_all(parts(self._native, xs, timeout, splits, ", or give splits="), whole, timeout, key),
            self._about("all_to_all", key),
            out,
        )

    @takes_its_place
    def send(self, x: Any, dst: int, tag: int = 0, *, timeout: float | None = None, key: str = "") -> Work:
        """Gives ``x`` to rank ``dst``. The op is over when that rank has called ``recv`` with the same tag."""
        return Work(
            self._native.send(stored(self._native, x, timeout), dst, tag, timeout, key), self._about("send", key, dst)
        )

    @takes_its_place
    def recv(self, src: int, tag: int = 0, *, timeout: float | None = None, out: Any = None, key: str = "") -> Work:
        """Gets what rank ``src`` sends with this tag, in order; nothing is moved."""
        check_out(out)
        return Work(self._native.recv(src, tag, timeout, key), self._about("recv", key, src), out)

    @takes_its_place
    def barrier(self, *, timeout: float | None = None, key: str = "") -> Work:
        """The op is over when every rank has called it."""
        return Work(self._native.barrier(timeout, key), self._about("barrier", key))

    @takes_its_place
    def split(self, color: int | None, key: int = 0, *, timeout: float | None = None) -> Group | None:
        """Every live rank calls it and waits; ranks of equal ``color`` get a new group, ranked by (key, rank).

        If ``color`` is None or negative, this rank gets None.

        Raises:
            QuotaExceeded: on every rank, if any of them would have too many seats, or its user too many groups.
            Timeout, PeerLost: as for every op.
        """
        seat = self._native.split(-1 if color is None else color, key, timeout)
        return None if seat is None else Group(seat)

    def subgroup(self, ranks: Sequence[int]) -> Group:
        """Makes a group of these ranks, in this order. All of them call it, and no other rank. Does not block.

        Raises:
            Invalid: this rank is not among ``ranks``, or a rank is named twice or out of range.
        """
        if not isinstance(ranks, Iterable):
            raise Invalid(f"ranks={ranks!r} is not valid", "give a list of ranks, for instance [0, 1]")
        members = list(ranks)
        if not members:
            raise Invalid(
                f"ranks={ranks!r} is not valid for a subgroup", "name at least one rank; this rank must be among them"
            )
        return Group(self._native.subgroup(members))

    def reform(self, *, timeout: float | None = None) -> None:
        """Every live rank calls it after a loss, and waits. Then the group works again, in a new epoch.

        Raises:
            Timeout: live ranks did not call it; the error names them.
        """
        self._native.reform(timeout)

    def leave(self) -> None:
        """Gives the seat up. Ops that this rank has contributed to still complete for the others."""
        self._native.leave()

    def __enter__(self) -> Group:  # noqa: PYI034
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.leave()
        except GroupClosed:
            pass  # the block has left the group already
        except Error:
            if error is None:
                raise

    def _about(self, op: str, key: str, peer: int | None = None) -> About:
        return op, peer, key, self._name

    if not TYPE_CHECKING:  # to them a wrong name is an error already

        def __getattr__(self, name: str) -> NoReturn:
            meant = name_here(name)
            if meant is None:
                object.__getattribute__(self, name)  # Python's own error
            raise AttributeError(f"a muster.Group has no attribute {name!r}; did you mean {meant}?")

    def __reduce__(self) -> NoReturn:
        raise Invalid(
            "a muster.Group can't be pickled: it belongs to its process", "call muster.group() in each process"
        )

    def __repr__(self) -> str:
        return f"<muster.Group '{self.name}', rank {self.rank} of {self.world_size}>"


def group(
    name: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    timeout: float = _muster.group_timeout_s,
    on_loss: str = "fail",
    open: bool = False,
    history: str | int | None = None,
) -> Group:
    """Takes a seat in a group. Does not wait for the other ranks.

    Args:
        name: of the group; by default ``$MUSTER_GROUP``, else ``"default"``.
        rank, world_size: left out, they come from the environment: ``muster run``, torchrun, Open MPI or Slurm.
        timeout: seconds, at most a day; the deadline of each op that has no timeout of its own.
        on_loss: what a lost rank does to the group: ``"fail"`` (refuse new ops until ``reform()``), ``"shrink"`` (go on
            with the live ranks) or ``"wait"`` (a new process may take the seat until the op's deadline).
        open: whether processes of other users may take seats. Then everybody in the group sees all of its results,
            inputs are copied, and values may hold plain data only: arrays, numbers, str, bytes, None, and dict, list,
            tuple, set, named tuple and dataclass of these. ``result()`` raises Denied for anything else.
        history: bytes, or a size such as ``"64MiB"``: the group remembers the outcomes of ops that are called with
            ``key=``, up to so many bytes of arrays. A rank that calls such an op again gets what was decided then; so
            does a process that took its seat. The oldest outcome is forgotten first, and all of them when others need
            the room or the group's epoch ends. A key then names one op: do not use it again. Not with ``open``.

    Raises:
        Invalid: the rank is taken or out of range, or the settings differ from the group's.
    """
    if not isinstance(on_loss, str) or on_loss not in _muster.on_loss:
        raise Invalid(f"on_loss={on_loss!r} is not valid", f"use {one_of(_muster.on_loss)}")
    chosen = name or os.environ.get("MUSTER_GROUP") or "default"
    seat = _muster.join(
        _runtime.connection(),
        chosen,
        rank,
        world_size,
        timeout,
        _muster.on_loss[on_loss],
        flag("open", open),
        size("history", history),
    )
    return Group(seat)
