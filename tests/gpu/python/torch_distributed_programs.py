"""What ranks of torch.distributed do with tensors on GPUs. `python torch_distributed_programs.py NAME...` is one rank.

Each rank has a GPU of its own where there are two, and shares one where there is one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import muster
import muster.torch
import torch
import torch.distributed as dist
from tensors_on_gpus import on_gpu

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
GPUS = len(muster.status()["gpus"])


def mine(values: Any, dtype: Any = torch.float32) -> Any:
    return on_gpu(torch.as_tensor(values, dtype=dtype), RANK % max(GPUS, 1))


def has(tensor: Any, values: Any) -> None:
    """Checks a tensor, and that it is still on its GPU."""
    assert tensor.is_cuda
    found = tensor.cpu()
    assert torch.equal(found, torch.as_tensor(values, dtype=tensor.dtype)), (found, values)


def reductions() -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.int64):
        tensor = mine([[1, 2, 3], [4, 5, 6 + RANK]], dtype)
        dist.all_reduce(tensor)
        has(tensor, [[2, 4, 6], [8, 10, 13]])
    for op, wanted in ((dist.ReduceOp.AVG, 1.5), (dist.ReduceOp.MAX, 2.0), (dist.ReduceOp.PRODUCT, 2.0)):
        tensor = mine([RANK + 1.0])
        dist.all_reduce(tensor, op)
        has(tensor, [wanted])
    tensor = mine([True, RANK == 0, False], torch.bool)
    dist.all_reduce(tensor)
    has(tensor, [True, True, False])
    tensor = mine([1 + 2j], torch.complex64)
    dist.all_reduce(tensor)
    has(tensor, [2 + 4j])
    tensor = mine([RANK + 1.0])
    dist.reduce(tensor, 1)
    has(tensor, [3.0] if RANK == 1 else [1.0])
    output = mine([0.0, 0.0])
    dist.reduce_scatter_tensor(output, mine([1.0, 2.0, 3.0, 4.0 + RANK]))
    has(output, [2.0, 4.0] if RANK == 0 else [6.0, 9.0])
    dist.reduce_scatter(output, [mine([1.0, 2.0]), mine([3.0, 4.0])], dist.ReduceOp.MAX)
    has(output, [1.0, 2.0] if RANK == 0 else [3.0, 4.0])


def moves() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int16, torch.bool):
        tensor = mine([[1, 0], [1, 1]] if RANK == 0 else [[0, 0], [0, 0]], dtype)
        dist.broadcast(tensor, 0)
        assert tensor.is_cuda
        assert torch.equal(tensor.cpu().float(), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    outputs = [mine([0.0]) for _ in range(RANKS)]
    dist.all_gather(outputs, mine([RANK + 5.0]))
    has(outputs[0], [5.0])
    has(outputs[1], [6.0])
    output = mine([0.0] * RANKS)
    dist.all_gather_into_tensor(output, mine([RANK + 5.0]))
    has(output, [5.0, 6.0])
    dist.gather(mine([RANK + 7.0]), outputs if RANK == 0 else None)
    has(outputs[1], [8.0 if RANK == 0 else 6.0])
    dist.scatter(outputs[0], [mine([3.0]), mine([4.0])] if RANK == 1 else None, src=1)
    has(outputs[0], [3.0 + RANK])
    dist.all_to_all(outputs, [mine([10.0 * RANK]), mine([10.0 * RANK + 1])])
    has(outputs[0], [0.0 + RANK])
    has(outputs[1], [10.0 + RANK])
    output = mine([0.0] * 3)
    dist.all_to_all_single(output, mine([RANK + 0.0, 5.0, 6.0]), *([[2, 1], [2, 1]] if RANK == 0 else [[1, 2], [1, 2]]))
    has(output, [0.0, 5.0, 1.0] if RANK == 0 else [6.0, 5.0, 6.0])


def messages() -> None:
    tensor = mine([RANK + 1.0, 2.0])
    if RANK == 0:
        dist.send(tensor, 1)
        assert dist.recv(tensor) == 1
        has(tensor, [9.0, 2.0])
    else:
        dist.recv(tensor, 0)
        has(tensor, [1.0, 2.0])
        dist.send(mine([9.0, 2.0]), 0)
    other = mine([0.0, 0.0])
    for request in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, tensor, 1 - RANK), dist.P2POp(dist.irecv, other, 1 - RANK)]
    ):
        request.wait()
    has(other, [1.0, 2.0] if RANK == 0 else [9.0, 2.0])
    objects: list[Any] = [None, None]
    dist.all_gather_object(objects, {"rank": RANK})
    assert objects == [{"rank": 0}, {"rank": 1}]


def strided_tensors() -> None:
    tensor = mine([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).t()
    dist.all_reduce(tensor)
    has(tensor, [[2.0, 8.0], [4.0, 10.0], [6.0, 12.0]])
    whole = mine([1.0, 2.0, 3.0, 4.0])
    dist.all_reduce(whole[1:3])
    has(whole, [1.0, 4.0, 6.0, 4.0])
    empty = mine([])
    dist.all_reduce(empty)
    assert empty.is_cuda


def futures() -> None:
    tensor = mine([RANK + 1.0])
    work = dist.all_reduce(tensor, async_op=True)
    future = work.get_future().then(lambda future: future.value()[0].cpu().item() + 1)
    assert future.wait() == 4.0
    work.wait()
    has(tensor, [3.0])


def tensors_of_the_host() -> None:
    """One group is for both."""
    tensor = torch.tensor([RANK + 1.0])
    dist.all_reduce(tensor)
    assert tensor.tolist() == [3.0]


def many_of_them() -> None:
    """What an op takes of the store is given back."""
    for _ in range(100):
        tensor = mine(torch.ones(1 << 20))
        dist.all_reduce(tensor)
        assert tensor.cpu()[-1] == 2.0


def fails(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except muster.Error as error:
        return str(error)
    raise AssertionError("no error came")


def different_kinds_of_memory() -> None:
    value = torch.tensor([1.0])
    told = fails(dist.all_reduce, mine([1.0]) if RANK == 0 else value)
    assert "GPU" in told or "cuda" in told, told
    told = fails(dist.broadcast, mine([1.0]) if RANK == 0 else value, 0) if RANK == 1 else ""
    if RANK == 0:
        dist.broadcast(mine([1.0]), 0)
    assert RANK == 0 or "cuda" in told, told


def without_gpus() -> None:
    told = fails(dist.all_reduce, mine([1.0]))
    assert "the daemon has no memory on the GPU" in told, told


if __name__ == "__main__":
    dist.init_process_group("muster")
    for name in sys.argv[1:]:
        print(name, flush=True)
        globals()[name]()
    dist.barrier()
    dist.destroy_process_group()
