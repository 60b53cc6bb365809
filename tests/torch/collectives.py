"""Each call of ``torch.distributed`` against its definition: ``CHECKS`` has a function of (rank, ranks) for each."""

from __future__ import annotations

import functools
import warnings

import muster.torch
import torch
import torch.distributed as dist
import worlds

CHECKS = {}
REDUCED = [
    torch.bool,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]
MOVED = [*REDUCED, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.complex32]
SHAPES = [(), (0,), (5,), (3, 4), (2, 0, 3), (1000,)]


def check(function):
    CHECKS[function.__name__] = function
    return function


def made(rank, shape=(3, 4), dtype=torch.float32):
    """What a rank gives: small whole numbers, which all dtypes hold and whose sums are exact."""
    count = int(torch.Size(shape).numel())
    values = (torch.arange(count, dtype=torch.float32) + rank) % 4
    return values.view(shape).to(dtype)


def blank(shape=(3, 4), dtype=torch.float32):
    return torch.zeros(shape, dtype=torch.float32).to(dtype)


def same(found, wanted):
    """Equal elements, dtype and shape. torch compares few dtypes, but bytes always."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    found, wanted = found.contiguous().view(-1), wanted.contiguous().view(-1)
    assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8)), (found, wanted)


def folded(ranks, fold, **how):
    return functools.reduce(fold, [made(rank, **how) for rank in range(ranks)])


@check
def allreduce_of_each_dtype(rank, ranks):
    for dtype in REDUCED:
        tensor = made(rank, dtype=dtype)
        dist.all_reduce(tensor)
        wanted = folded(ranks, torch.logical_or if dtype is torch.bool else torch.add, dtype=dtype)
        same(tensor, wanted)


@check
def allreduce_of_each_shape(rank, ranks):
    for shape in SHAPES:
        tensor = made(rank, shape)
        dist.all_reduce(tensor)
        same(tensor, folded(ranks, torch.add, shape=shape))


@check
def allreduce_by_each_op(rank, ranks):
    op = dist.ReduceOp
    folds = {op.SUM: torch.add, op.PRODUCT: torch.mul, op.MIN: torch.minimum, op.MAX: torch.maximum}
    folds |= {op.BAND: torch.bitwise_and, op.BOR: torch.bitwise_or, op.BXOR: torch.bitwise_xor}
    for kind, fold in folds.items():
        tensor = made(rank, dtype=torch.int64)
        dist.all_reduce(tensor, kind)
        same(tensor, folded(ranks, fold, dtype=torch.int64))
    tensor = made(rank)
    dist.all_reduce(tensor, op.AVG)
    same(tensor, folded(ranks, torch.add) / ranks)


@check
def allreduce_of_bool_stays_bool(rank, ranks):
    op = dist.ReduceOp
    for kind, fold in {
        op.SUM: torch.logical_or,
        op.MAX: torch.logical_or,
        op.PRODUCT: torch.logical_and,
        op.MIN: torch.logical_and,
        op.BXOR: torch.logical_xor,
    }.items():
        tensor = made(rank, dtype=torch.bool)
        dist.all_reduce(tensor, kind)
        same(tensor, folded(ranks, fold, dtype=torch.bool))


@check
def allreduce_of_tensors_that_are_not_contiguous(rank, ranks):
    views = [lambda t: t.t(), lambda t: t[:, ::2], lambda t: t[1:, 1:], lambda t: t[0].expand(2, 4).t()[:, :1]]
    for view in views:
        tensor = view(made(rank))
        dist.all_reduce(tensor)
        same(tensor, functools.reduce(torch.add, [view(made(each)) for each in range(ranks)]))


@check
def allreduce_of_a_parameter_and_of_conjugates(rank, ranks):
    parameter = torch.nn.Parameter(made(rank))
    dist.all_reduce(parameter)
    same(parameter.detach(), folded(ranks, torch.add))
    if worlds.GROUP_IS_TORCHS:
        return  # torch itself gives backends a copy of it, and nobody the result
    tensor = (made(rank, dtype=torch.complex64) * 1j).conj()
    # torch itself makes views of real numbers of it, which can't be conjugated.
    dist.group.WORLD.allreduce([tensor]).wait()
    same(tensor.resolve_conj(), (folded(ranks, torch.add, dtype=torch.complex64) * 1j).conj().resolve_conj())


@check
def allreduce_of_elements_that_differ_in_order_gives_the_same_bits_on_each_rank(rank, ranks):
    generator = torch.Generator().manual_seed(rank)
    tensor = torch.rand(1000, generator=generator)
    dist.all_reduce(tensor)
    every = [torch.empty(1000) for _ in range(ranks)]
    dist.all_gather(every, tensor)
    for other in every:
        same(other, tensor)


@check
def allreduce_coalesced(rank, ranks):
    tensors = [made(rank, shape) for shape in SHAPES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist.all_reduce_coalesced(tensors)
    for tensor, shape in zip(tensors, SHAPES):
        same(tensor, folded(ranks, torch.add, shape=shape))


@check
def broadcast(rank, ranks):
    for dtype in MOVED:
        for root in range(ranks):
            tensor = made(rank, dtype=dtype)
            dist.broadcast(tensor, root)
            same(tensor, made(root, dtype=dtype))
    turned = made(rank).t()
    dist.broadcast(turned, 0)
    same(turned, made(0).t())


@check
def reduce_to_each_rank(rank, ranks):
    for root in range(ranks):
        tensor = made(rank)
        dist.reduce(tensor, root)
        if rank == root:
            same(tensor, folded(ranks, torch.add))


@check
def allgather(rank, ranks):
    for dtype in MOVED:
        every = [blank(dtype=dtype) for _ in range(ranks)]
        dist.all_gather(every, made(rank, dtype=dtype))
        for other, tensor in enumerate(every):
            same(tensor, made(other, dtype=dtype))
    turned = [blank((4, 3)).t() for _ in range(ranks)]
    dist.all_gather(turned, made(rank))
    for other, tensor in enumerate(turned):
        same(tensor, made(other))


@check
def allgather_coalesced(rank, ranks):
    given = [made(rank, shape) for shape in SHAPES]
    every = [[blank(shape) for shape in SHAPES] for _ in range(ranks)]
    dist.group.WORLD.allgather_coalesced(every, given).wait()
    for other, tensors in enumerate(every):
        for tensor, shape in zip(tensors, SHAPES):
            same(tensor, made(other, shape))


@check
def all_gather_single(rank, ranks):
    every = [made(other) for other in range(ranks)]
    joined, stacked = blank((3 * ranks, 4)), blank((ranks, 3, 4))
    dist.all_gather_single(joined, made(rank))
    dist.all_gather_single(stacked, made(rank))
    same(joined, torch.cat(every))
    same(stacked, torch.stack(every))
    turned = blank((4, 3 * ranks)).t()
    dist.all_gather_single(turned, made(rank))
    same(turned, torch.cat(every))


@check
def gather(rank, ranks):
    for root in range(ranks):
        every = [blank() for _ in range(ranks)] if rank == root else None
        dist.gather(made(rank), every, dst=root)
        for other, tensor in enumerate(every or []):
            same(tensor, made(other))


@check
def scatter(rank, ranks):
    for root in range(ranks):
        tensor = blank()
        dist.scatter(tensor, [made(10 * root + other) for other in range(ranks)] if rank == root else None, src=root)
        same(tensor, made(10 * root + rank))


@check
def reduce_scatter(rank, ranks):
    output = blank()
    dist.reduce_scatter(output, [made(rank + 10 * part) for part in range(ranks)])
    same(output, functools.reduce(torch.add, [made(other + 10 * rank) for other in range(ranks)]))


@check
def reduce_scatter_single(rank, ranks):
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        output = blank((2, 4), dtype)
        dist.reduce_scatter_single(output, made(rank, (2 * ranks, 4), dtype))
        same(output, folded(ranks, torch.add, shape=(2 * ranks, 4), dtype=dtype)[2 * rank : 2 * rank + 2])


@check
def coalescing_manager(rank, ranks):
    reduced = [made(rank, shape) for shape in SHAPES]
    with dist._coalescing_manager():
        for tensor in reduced:
            dist.all_reduce(tensor)
    gathered = [blank((ranks, 3)), blank((ranks, 5))]
    with dist._coalescing_manager():
        for tensor in gathered:
            dist.all_gather_single(tensor, made(rank, tensor.shape[1:]))
    parts = [blank((3,)), blank((5,))]
    with dist._coalescing_manager(async_ops=True) as manager:
        for tensor in parts:
            dist.reduce_scatter_single(tensor, made(rank, (ranks, len(tensor))))
    manager.wait()
    for tensor, shape in zip(reduced, SHAPES):
        same(tensor, folded(ranks, torch.add, shape=shape))
    for tensor in gathered:
        same(tensor, torch.stack([made(other, tensor.shape[1:]) for other in range(ranks)]))
    for tensor in parts:
        same(tensor, folded(ranks, torch.add, shape=(ranks, len(tensor)))[rank])


@check
def all_to_all(rank, ranks):
    outputs = [blank((other + 1,)) for other in range(ranks)]
    dist.all_to_all(outputs, [made(rank + other, (rank + 1,)) for other in range(ranks)])
    for other, tensor in enumerate(outputs):
        same(tensor, made(rank + other, (other + 1,)))


@check
def all_to_all_single(rank, ranks):
    output = blank((ranks, 3))
    dist.all_to_all_single(output, made(rank, (ranks, 3)))
    same(output, torch.stack([made(other, (ranks, 3))[rank] for other in range(ranks)]))


@check
def all_to_all_single_with_splits(rank, ranks):
    def given(other):  # rank r gives r + s rows to rank s
        return made(other, (sum(other + part for part in range(ranks)), 2))

    splits = [rank + other for other in range(ranks)]
    output = blank((sum(splits), 2))
    dist.all_to_all_single(output, given(rank), splits, splits)
    parts = [given(other).split([other + part for part in range(ranks)])[rank] for other in range(ranks)]
    same(output, torch.cat(parts))


@check
def barriers(rank, ranks):
    dist.barrier()
    dist.group.WORLD.monitored_barrier()


@check
def send_and_recv_in_a_ring(rank, ranks):
    if ranks == 1:
        return
    after, before = (rank + 1) % ranks, (rank - 1) % ranks
    for dtype in MOVED:
        got = blank(dtype=dtype)
        if rank == 0:
            dist.send(made(rank, dtype=dtype), after)
            assert dist.recv(got, before) == before
        else:
            assert dist.recv(got, before) == before
            dist.send(made(rank, dtype=dtype), after)
        same(got, made(before, dtype=dtype))


@check
def sends_and_recvs_match_by_tag_and_order(rank, ranks):
    if rank == 0 and ranks > 1:
        works = [dist.isend(made(10 * tag + turn), 1, tag=tag) for tag in (5, 7) for turn in range(3)]
        for work in works:
            work.wait()
    if rank == 1:
        for tag in (7, 5):
            for turn in range(3):
                got = blank()
                dist.recv(got, 0, tag=tag)
                same(got, made(10 * tag + turn))


@check
def batch_isend_irecv(rank, ranks):
    got = [blank() for _ in range(ranks)]
    ops = [dist.P2POp(dist.irecv, got[other], other) for other in range(ranks)]
    ops += [dist.P2POp(dist.isend, made(rank + other), other) for other in range(ranks)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    for other in range(ranks):
        same(got[other], made(rank + other))


@check
def recv_from_any_source(rank, ranks):
    if rank == 0:
        sources = []
        for _ in range(2 * (ranks - 1)):
            got = blank()
            sources.append(worlds.recv_from_any(got, tag=3))
            same(got, made(sources[-1]))
        assert sorted(sources) == sorted(2 * list(range(1, ranks)))
    else:
        dist.send(made(rank), 0, tag=3)
        dist.send(made(rank), 0, tag=3)
    # What a recv from any source has asked all ranks for is there for one that names its source. The barrier keeps it
    # from being one of those above.
    dist.barrier()
    if rank == 0 and ranks > 1:
        got = blank()
        dist.recv(got, ranks - 1, tag=3)
        same(got, made(99))
    if rank == ranks - 1 and ranks > 1:
        dist.send(made(99), 0, tag=3)


@check
def objects(rank, ranks):
    every = [None] * ranks
    dist.all_gather_object(every, {"rank": rank})
    assert every == [{"rank": other} for other in range(ranks)]
    gathered = [None] * ranks if rank == 0 else None
    dist.gather_object(("of", rank), gathered)
    assert rank != 0 or gathered == [("of", other) for other in range(ranks)]
    told = ["x", rank] if rank == ranks - 1 else [None, None]
    dist.broadcast_object_list(told, src=ranks - 1)
    assert told == ["x", ranks - 1]
    mine = [None]
    dist.scatter_object_list(mine, [f"for {other}" for other in range(ranks)] if rank == 0 else None)
    assert mine == [f"for {rank}"]


@check
def works_and_futures(rank, ranks):
    tensor = made(rank)
    # What torch itself returns passes on no more than wait() and get_future(), if the group is its own.
    work = muster.torch.seat().allreduce([tensor])
    assert work.wait() is True
    assert work.is_completed()
    assert work.is_success()
    assert work.exception() is None
    assert work.result()[0] is tensor
    same(tensor, folded(ranks, torch.add))

    other = made(rank)
    work = dist.all_reduce(other, async_op=True)
    halved = work.get_future().then(lambda done: done.value()[0] / 2)
    same(halved.wait(), folded(ranks, torch.add) / 2)
    same(work.get_future().wait()[0], folded(ranks, torch.add))

    works = [dist.all_reduce(made(rank), async_op=True) for _ in range(20)]
    for found in torch.futures.wait_all([work.get_future() for work in works]):
        same(found[0], folded(ranks, torch.add))


@check
def subgroups(rank, ranks):
    evens = dist.new_group(list(range(0, ranks, 2)))
    pairs, _ = dist.new_subgroups(1)
    if rank % 2 == 0:
        tensor = made(rank)
        dist.all_reduce(tensor, group=evens)
        same(tensor, functools.reduce(torch.add, [made(other) for other in range(0, ranks, 2)]))
        told = made(rank)
        dist.broadcast(told, src=0, group=evens)
        same(told, made(0))
    tensor = made(rank)
    dist.all_reduce(tensor, group=pairs)
    same(tensor, made(rank))


@check
def short_forms_of_the_process_groups_methods(rank, ranks):
    group, op = dist.group.WORLD, dist.ReduceOp.MAX
    tensor = made(rank)
    group.allreduce(tensor, op).wait()
    same(tensor, folded(ranks, torch.maximum))
    every = [blank() for _ in range(ranks)]
    group.allgather(every, made(rank)).wait()
    same(every[-1], made(ranks - 1))
    part = blank()
    group.reduce_scatter(part, [made(rank) for _ in range(ranks)]).wait()
    same(part, folded(ranks, torch.add))
    told = made(rank)
    group.broadcast(told, ranks - 1).wait()
    same(told, made(ranks - 1))
    group.barrier().wait()


@check
def functional_collectives(rank, ranks):
    import torch.distributed._functional_collectives as functional

    same(functional.all_reduce(made(rank), "sum", dist.group.WORLD) + 0, folded(ranks, torch.add))
    gathered = functional.all_gather_tensor(made(rank), 0, dist.group.WORLD) + 0
    same(gathered, torch.cat([made(other) for other in range(ranks)]))
    part = functional.reduce_scatter_tensor(made(rank, (ranks, 4)), "sum", 0, dist.group.WORLD) + 0
    same(part, folded(ranks, torch.add, shape=(ranks, 4))[rank : rank + 1])
    swapped = functional.all_to_all_single(made(rank, (ranks, 2)), None, None, dist.group.WORLD) + 0
    same(swapped, torch.stack([made(other, (ranks, 2))[rank] for other in range(ranks)]))
    same(functional.broadcast(made(rank), 0, dist.group.WORLD) + 0, made(0))
