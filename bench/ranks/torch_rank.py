"""A rank of torch.distributed with the calls that users make: the same script over Gloo and over Muster.

The ops ``ddp``, ``mlp`` and ``transformer`` are training steps with DDP. ``ddp`` has a model that computes next to
nothing; its variant ``no_sync`` is the same step without communication. The others are whole steps.
"""

import contextlib
import importlib
import os
import sys

import torch
import torch.distributed as dist
from protocol import PAGE, fill, is_filled, is_sum, obey
from torch.nn.parallel import DistributedDataParallel

STEPS = ("ddp", "mlp", "transformer")
MIB_OF_ELEMENTS = 1 << 18
BATCH, TOKENS, WIDTH, LETTERS = 4, 64, 128, 96


class TorchRank:
    def __init__(self, backend: str) -> None:
        torch.set_num_threads(1)
        if backend == "muster":
            importlib.import_module("muster.torch")  # makes the backend known
        dist.init_process_group(backend, init_method=os.environ["BENCH_RENDEZVOUS"])
        self.number, self.ranks = dist.get_rank(), dist.get_world_size()
        self.tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.trainings: dict[str, Training] = {}

    def barrier(self) -> None:
        dist.barrier()

    def prepare(self, op: str, variant: str, count: int, seed: int) -> None:
        if op in STEPS:
            if op not in self.trainings:
                self.trainings[op] = TRAININGS[op](count)
            self.trainings[op].prepare(self.number, seed)
            return
        self.tensor, self.result = self.tensors.setdefault(count, (torch.empty(count), torch.empty(count)))
        if op == "allreduce":
            fill(self.tensor.numpy(), self.number, seed)
            return
        for to, part in enumerate(self.tensor.chunk(self.ranks)):
            fill(part.numpy(), self.number, seed + to)

    def run(self, op: str, variant: str) -> None:
        if op in STEPS:
            self.trainings[op].step(variant)
        elif op == "allreduce":
            dist.all_reduce(self.tensor)  # in place
        elif op == "reduce_scatter":
            dist.reduce_scatter_tensor(self.result[: len(self.tensor) // self.ranks], self.tensor)
        else:
            dist.all_to_all_single(self.result, self.tensor)

    def check(self, op: str, variant: str, seed: int) -> bool:
        own_part = seed + self.number
        if op in STEPS:
            return self.trainings[op].is_right(variant, self.number, self.ranks, seed)
        if op == "allreduce":
            return is_sum(self.tensor.numpy(), self.ranks, seed)
        if op == "reduce_scatter":
            return is_sum(self.result[: len(self.tensor) // self.ranks].numpy(), self.ranks, own_part)
        return all(
            is_filled(part.numpy(), source, own_part) for source, part in enumerate(self.result.chunk(self.ranks))
        )


class Sum(torch.nn.Module):
    """Parameters of 1 MiB each. Their gradients are all ``scale``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        sizes = [MIB_OF_ELEMENTS] * (count // MIB_OF_ELEMENTS)
        self.values = torch.nn.ParameterList(torch.zeros(size) for size in sizes)

    def forward(self, scale: float) -> torch.Tensor:
        return scale * torch.stack([value.sum() for value in self.values]).sum()


class Ddp:
    """A step that is communication, and what DDP itself does."""

    def __init__(self, count: int) -> None:
        self.model = DistributedDataParallel(Sum(count))

    def prepare(self, rank: int, seed: int) -> None:
        self.model.zero_grad()
        self.scale = float(rank + 1 + seed % 5)

    def step(self, variant: str) -> None:
        with self.model.no_sync() if variant == "no_sync" else contextlib.nullcontext():
            self.model(self.scale).backward()

    def is_right(self, variant: str, rank: int, ranks: int, seed: int) -> bool:
        wanted = self.scale if variant == "no_sync" else (ranks + 1) / 2 + seed % 5
        return all(bool((value.grad[::PAGE] == wanted).all()) for value in self.model.parameters())


class Training:
    """Whole steps: forward, backward, optimizer."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = DistributedDataParallel(model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def prepare(self, rank: int, seed: int) -> None:
        self.inputs = self.inputs_of(torch.Generator().manual_seed(1000 * seed + rank))
        self.optimizer.zero_grad()

    def step(self, variant: str) -> None:
        self.loss_of(self.inputs).backward()
        self.optimizer.step()

    def is_right(self, variant: str, rank: int, ranks: int, seed: int) -> bool:
        """Whether all ranks still have the same parameters."""
        own = torch.stack([value.detach().double().sum() for value in self.model.parameters()])
        first = own.clone()
        dist.broadcast(first, 0)
        return bool(own.isfinite().all() and (own == first).all())


class Mlp(Training):
    def __init__(self, count: int) -> None:
        torch.manual_seed(0)
        narrow, wide = 512, 2048
        sizes = [(narrow, wide), (wide, wide), (wide, narrow)]
        layers = [layer for size in sizes for layer in (torch.nn.Linear(*size), torch.nn.ReLU())]
        super().__init__(torch.nn.Sequential(*layers[:-1]))

    def inputs_of(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(8, 512, generator=generator)

    def loss_of(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(inputs).square().mean()


class Letters(torch.nn.Module):
    """Predicts each letter of a text from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = torch.nn.Embedding(LETTERS, WIDTH), torch.nn.Embedding(TOKENS, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.scores = torch.nn.Linear(WIDTH, LETTERS)
        self.mask = torch.nn.Transformer.generate_square_subsequent_mask(TOKENS)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        known = self.letters(text) + self.places(torch.arange(TOKENS))
        return self.scores(self.layers(known, self.mask, is_causal=True))


class Transformer(Training):
    def __init__(self, count: int) -> None:
        torch.manual_seed(0)
        super().__init__(Letters())

    def inputs_of(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(LETTERS, (BATCH, TOKENS + 1), generator=generator)

    def loss_of(self, inputs: torch.Tensor) -> torch.Tensor:
        scores = self.model(inputs[:, :-1])
        return torch.nn.functional.cross_entropy(scores.flatten(0, 1), inputs[:, 1:].flatten())


TRAININGS = {"ddp": Ddp, "mlp": Mlp, "transformer": Transformer}

system = sys.argv[1]
rank = TorchRank("muster" if system == "muster_torch" else "gloo")
obey(system, rank.number, rank)
dist.destroy_process_group()
