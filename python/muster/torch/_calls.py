"""What torch calls: each method starts an op of the Muster group, and returns a ``MusterWork``."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from muster._group import Group
from muster.errors import Error, Invalid, Timeout
from muster.torch import _sparse, _tensors
from muster.torch._errors import of_torch, of_torch_in_words
from muster.torch._seat_base import SeatBase
from muster.torch._tensors import Tensor, moved, reduced, same_number, same_size, write, write_all
from muster.torch._work import MusterWork


class Calls(SeatBase):
    """What torch calls of a group, whatever class of torch's it is called on."""

    # ---- all ranks get something ----

    def allreduce(self, tensors: Any, opts: Any = None, timeout: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            tensor = _tensors.only(tensors)
            op = _tensors.op_name(_reduce_op(opts), tensor)
            if _sparse.is_sparse(tensor):
                work = self.muster_group.allgather(_sparse.given(tensor, op), timeout=limit)
                return MusterWork("allreduce", work, lambda values: _sparse.write_sum(tensor, values), [tensor])
            work = self.muster_group.allreduce(reduced(tensor, op), op, timeout=limit)
            return MusterWork("allreduce", work, lambda value: write(tensor, value), [tensor])

        return self._start(Group.allreduce, start, opts, timeout)

    def allreduce_coalesced(self, tensors: Sequence[Tensor], opts: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            op = _tensors.op_name(_reduce_op(opts), *tensors)
            given = [reduced(tensor, op) for tensor in tensors]
            work = self.muster_group.allreduce(given, op, timeout=limit)
            return MusterWork("allreduce", work, lambda values: write_all(tensors, values), tensors)

        return self._start(Group.allreduce, start, opts)

    def broadcast(self, tensors: Any, opts: Any = None, timeout: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            tensor, root = _tensors.only(tensors), _root(opts)
            _tensors.check(tensor)
            is_root = self.rank() == root
            work = self.muster_group.broadcast(moved(tensor) if is_root else None, root, timeout=limit)
            return MusterWork("broadcast", work, lambda value: None if is_root else write(tensor, value), [tensor])

        return self._start(Group.broadcast, start, opts, timeout)

    def allgather(self, output_tensors: Any, input_tensors: Any, opts: Any = None, timeout: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            outputs, tensor = self._for_each_rank(output_tensors, input_tensors, "outputs")
            same_size(outputs, tensor.numel(), tensor.dtype, "outputs")
            work = self.muster_group.allgather(moved(tensor), timeout=limit)
            return MusterWork("allgather", work, lambda values: write_all(outputs, values), outputs)

        return self._start(Group.allgather, start, opts, timeout)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> MusterWork:
        return self.all_gather_single_coalesced([output], [input], opts)

    def all_gather_single_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None
    ) -> MusterWork:
        """Each output is the ranks' inputs, one behind the other."""

        def start(limit: float) -> MusterWork:
            _check_length(outputs, len(inputs), "outputs")
            for output, given in zip(outputs, inputs):
                same_size([output], given.numel() * self.size(), given.dtype, "outputs")
            work = self.muster_group.allgather([moved(tensor) for tensor in inputs], timeout=limit)

            def finish(values: Any) -> None:
                for index, output in enumerate(outputs):
                    sizes = [output.numel() // self.size()] * self.size()
                    _write_parts(output, [value[index] for value in values], sizes)

            return MusterWork("allgather", work, finish, outputs)

        return self._start(Group.allgather, start, opts)

    def allgather_coalesced(
        self, output_lists: Sequence[Sequence[Tensor]], input_list: Sequence[Tensor], opts: Any = None
    ) -> MusterWork:
        """``output_lists[rank][i]`` is that rank's input i."""

        def start(limit: float) -> MusterWork:
            self._check_count(output_lists, "output lists")
            for outputs in output_lists:
                _check_length(outputs, len(input_list), "tensors in an output list")
                for output, tensor in zip(outputs, input_list):
                    same_size([output], tensor.numel(), tensor.dtype, "outputs")
            work = self.muster_group.allgather([moved(tensor) for tensor in input_list], timeout=limit)

            def finish(values: Any) -> None:
                same_number(len(output_lists), len(values))
                for outputs, given in zip(output_lists, values):
                    write_all(outputs, given)

            return MusterWork("allgather", work, finish, list(itertools.chain(*output_lists)))

        return self._start(Group.allgather, start, opts)

    def barrier(self, opts: Any = None, timeout: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            work = self.muster_group.barrier(timeout=limit)
            return MusterWork("barrier", work, lambda _: None, [])

        return self._start(Group.barrier, start, opts, timeout)

    def monitored_barrier(self, timeout: Any = None, wait_all_ranks: bool = False) -> None:
        """A barrier whose error names the ranks that did not come: on rank 0 the first, or all if ``wait_all_ranks``.

        ``timeout``: a time, or options of torch's that have it; 0 does not wait.
        """
        given = getattr(timeout, "timeout", timeout)
        if given is not None and given == datetime.timedelta():
            given = datetime.timedelta(milliseconds=1)
        try:
            self.barrier(timeout=given).wait()
        except Timeout as error:
            raise of_torch_in_words(error, self._of_monitored_barrier(error.ranks, wait_all_ranks)) from None

    def _of_monitored_barrier(self, missing: Sequence[int], wait_all_ranks: bool) -> str:
        """What Gloo says then."""
        if self.rank() != 0:
            return (
                f"Rank {self.rank()} successfully reached monitoredBarrier, but received errors while waiting for"
                " send/recv from rank 0"
            )
        if not missing:
            return "Rank 0 timed out in monitoredBarrier"
        names = ", ".join(map(str, missing if wait_all_ranks else missing[:1]))
        return (
            f"Rank 0 timed out in monitoredBarrier: Rank{'s' * wait_all_ranks} {names} failed to pass monitoredBarrier"
        )

    # ---- one rank gets or gives ----

    def reduce(self, tensors: Any, opts: Any = None, op: Any = None, timeout: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            tensor, root = _tensors.only(tensors), _root(opts)
            name = _tensors.op_name(_reduce_op(opts if op is None else op), tensor)
            work = self.muster_group.reduce(reduced(tensor, name), root, name, timeout=limit)
            is_root = self.rank() == root
            return MusterWork("reduce", work, lambda value: write(tensor, value) if is_root else None, [tensor])

        return self._start(Group.reduce, start, opts, timeout)

    def gather(self, output_tensors: Any, input_tensors: Any, opts: Any = None, timeout: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            root, tensor = _root(opts), _tensors.only(input_tensors)
            outputs: list[Tensor] = []
            if self.rank() == root:
                outputs, _ = self._for_each_rank(output_tensors, input_tensors, "outputs")
            same_size(outputs, tensor.numel(), tensor.dtype, "outputs")
            work = self.muster_group.gather(moved(tensor), root, timeout=limit)
            return MusterWork("gather", work, lambda values: write_all(outputs, values or []), outputs)

        return self._start(Group.gather, start, opts, timeout)

    def scatter(self, output_tensors: Any, input_tensors: Any, opts: Any = None, timeout: Any = None) -> MusterWork:
        def start(limit: float) -> MusterWork:
            root, given, tensor = _root(opts), None, _tensors.only(output_tensors)
            _tensors.check(tensor)
            if self.rank() == root:
                inputs, _ = self._for_each_rank(input_tensors, output_tensors, "inputs")
                same_size(inputs, tensor.numel(), tensor.dtype, "inputs")
                given = [moved(each) for each in inputs]
            work = self.muster_group.scatter(given, root, timeout=limit)
            return MusterWork("scatter", work, lambda value: write(tensor, value), [tensor])

        return self._start(Group.scatter, start, opts, timeout)

    # ---- every rank gives parts ----

    def reduce_scatter(
        self, output_tensors: Any, input_tensors: Any, opts: Any = None, timeout: Any = None
    ) -> MusterWork:
        def start(limit: float) -> MusterWork:
            inputs, output = self._for_each_rank(input_tensors, output_tensors, "inputs")
            same_size([output], inputs[self.rank()].numel(), inputs[self.rank()].dtype, "outputs")
            op = _tensors.op_name(_reduce_op(opts), *inputs)
            work = self.muster_group.reduce_scatter([reduced(tensor, op) for tensor in inputs], op, timeout=limit)
            return MusterWork("reduce_scatter", work, lambda value: write(output, value), [output])

        return self._start(Group.reduce_scatter, start, opts, timeout)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> MusterWork:
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None
    ) -> MusterWork:
        """Each output is this rank's part of an input, reduced; all parts are equally long."""

        def start(limit: float) -> MusterWork:
            _check_length(outputs, len(inputs), "outputs")
            op = _tensors.op_name(_reduce_op(opts), *inputs)
            for output, given in zip(outputs, inputs):
                same_size([given], output.numel() * self.size(), output.dtype, "inputs")
            flat = [reduced(tensor, op).reshape(self.size(), -1) for tensor in inputs]
            parts = [[each[rank] for each in flat] for rank in range(self.size())]
            work = self.muster_group.reduce_scatter(parts, op, timeout=limit)
            return MusterWork("reduce_scatter", work, lambda values: write_all(outputs, values), outputs)

        return self._start(Group.reduce_scatter, start, opts)

    def alltoall(
        self, output_tensors: Sequence[Tensor], input_tensors: Sequence[Tensor], opts: Any = None
    ) -> MusterWork:
        def start(limit: float) -> MusterWork:
            self._check_count(output_tensors, "outputs")
            self._check_count(input_tensors, "inputs")
            for output in output_tensors:
                _tensors.check(output)
            work = self.muster_group.all_to_all([moved(tensor) for tensor in input_tensors], timeout=limit)
            return MusterWork("all_to_all", work, lambda values: write_all(output_tensors, values), output_tensors)

        return self._start(Group.all_to_all, start, opts)

    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int],
        input_split_sizes: Sequence[int],
        opts: Any = None,
    ) -> MusterWork:
        """Splits are numbers of rows, one for each rank; without them the parts are equally long."""

        def start(limit: float) -> MusterWork:
            _tensors.check(output)
            _tensors.check(input)
            sizes = self._part_sizes(output, output_split_sizes, "output")
            given = _split(moved(input), self._part_sizes(input, input_split_sizes, "input"))
            work = self.muster_group.all_to_all(given, timeout=limit)
            return MusterWork("all_to_all", work, lambda values: _write_parts(output, values, sizes), [output])

        return self._start(Group.all_to_all, start, opts)

    # ---- two ranks ----

    def send(self, tensors: Any, dst: int, tag: int = 0) -> MusterWork:
        def start(limit: float) -> MusterWork:
            tensor = _tensors.only(tensors)
            work = self.muster_group.send(moved(tensor), dst, tag, timeout=limit)
            return MusterWork("send", work, lambda _: None, [tensor])

        return self._start(Group.send, start, dst=dst, tag=tag)

    def recv(self, tensors: Any, src: int, tag: int = 0) -> MusterWork:
        def start(limit: float) -> MusterWork:
            tensor = _tensors.only(tensors)
            _tensors.check(tensor)
            work = self._inbox.from_one(src, tag, limit)
            return MusterWork("recv", work, lambda value: write(tensor, value), [tensor], src)

        # If this fails at its start, the recv that would have been this call's may be there already.
        return self._start(Group.recv, start, fail=lambda: self._inbox.drop(src, tag), src=src, tag=tag)

    def recv_anysource(self, tensors: Any, tag: int = 0) -> MusterWork:
        try:
            tensor = _tensors.only(tensors)
            _tensors.check(tensor)
            arrival = self._inbox.from_any(tag, self._timeout_s)
        except Error as error:
            self._note(of_torch(error))
            raise of_torch(error) from None
        return MusterWork("recv", arrival, lambda value: write(tensor, value), [tensor]).started_by(self._note)

    # ---- older names of torch ----

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    # ---- what the methods share ----

    def _check_count(self, tensors: Sequence[Any], what: str) -> None:
        _check_length(tensors, self.size(), what)

    def _for_each_rank(self, lists: Any, single: Any, what: str) -> tuple[list[Tensor], Tensor]:
        """Returns a tensor for each rank, and this rank's one tensor.

        torch gives ``[[a tensor for each rank]]`` and ``[a tensor]``. Its short forms have no outer lists.
        """
        found = lists if isinstance(single, torch.Tensor) else _tensors.only(lists)
        self._check_count(found, what)
        return list(found), _tensors.only(single)

    def _part_sizes(self, tensor: Tensor, splits: Sequence[int], what: str) -> list[int]:
        """The number of elements of each rank's part."""
        rows = tensor.shape[0] if tensor.dim() else 1
        if not splits:
            if rows % self.size():
                raise Invalid(
                    f"the {what}'s {rows} rows can't be split evenly over {self.size()} ranks", "give split sizes"
                )
            splits = [rows // self.size()] * self.size()
        _check_length(splits, self.size(), f"{what} splits")
        if sum(splits) != rows or min(splits) < 0:
            raise Invalid(f"the {what} splits {list(splits)} do not add up to {rows} rows", "let them add up")
        row = tensor.numel() // rows if rows else 0
        return [each * row for each in splits]


def _check_length(items: Sequence[Any], length: int, what: str) -> None:
    if len(items) != length:
        raise Invalid(f"the number of {what} is {len(items)}, and {length} are needed", f"give {length}")


def _reduce_op(opts: Any) -> Any:
    """The reduce op of torch's options. Its short forms give the op itself, or nothing for a sum."""
    return dist.ReduceOp.SUM if opts is None else getattr(opts, "reduceOp", opts)


def _root(opts: Any) -> int:
    return int(getattr(opts, "rootRank", opts or 0))


def _split(flat: Any, sizes: Sequence[int]) -> list[Any]:
    ends = list(itertools.accumulate(sizes))
    return [flat[end - size : end] for size, end in zip(sizes, ends)]


def _write_parts(output: Tensor, values: Sequence[Any], sizes: Sequence[int]) -> None:
    """Copies the parts of a result, of so many elements, into one tensor, one behind the other."""
    target = output if output.is_contiguous() else output.detach().contiguous()
    write_all(_split(target.detach().view(-1), sizes), values)
    if target is not output:
        output.detach().copy_(target)
