"""Trains a small transformer to write like Python's manual, letter by letter, with PyTorch's DDP or FSDP2.

With torchrun:    torchrun --nproc-per-node 4 python/examples/torch/letters.py
With muster run:  muster run -n 4 -- python python/examples/torch/letters.py
Sharded (FSDP2):  torchrun --nproc-per-node 4 python/examples/torch/letters.py --shard
Over Gloo:        torchrun --nproc-per-node 4 python/examples/torch/letters.py --backend gloo

``--checkpoint FILE`` saves every ``--save-every`` steps, and goes on from there. With ``--kill-at STEP`` the last rank
kills itself at that step, once: the others get an error that names it, and ``torchrun --max-restarts 1`` starts all
again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import muster.torch  # noqa: F401
import torch
import torch.distributed as dist
from lost import kill_last_rank
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

TOKENS, WIDTH, HEADS, LAYERS, BATCH, RATE = 64, 64, 4, 2, 16, 3e-3
LETTERS = 128


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a small transformer with DDP or FSDP2.")
    parser.add_argument("--backend", default="muster")
    parser.add_argument("--shard", action="store_true", help="FSDP2: each rank keeps a part of the parameters")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--save-every", type=int, default=10, metavar="STEPS")
    parser.add_argument("--kill-at", type=int, metavar="STEP")
    return parser.parse_args()


class Writer(torch.nn.Module):
    """Predicts each letter of texts from those before it. Its output is how wrong it is."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = torch.nn.Embedding(LETTERS, WIDTH), torch.nn.Embedding(TOKENS, WIDTH)
        layers = (
            torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.layers = torch.nn.ModuleList(layers)
        self.scores = torch.nn.Linear(WIDTH, LETTERS)

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        earlier = torch.nn.Transformer.generate_square_subsequent_mask(TOKENS)
        known = self.letters(texts[:, :-1]) + self.places(torch.arange(TOKENS))
        for layer in self.layers:
            known = layer(known, earlier, is_causal=True)
        return torch.nn.functional.cross_entropy(self.scores(known).flatten(0, 1), texts[:, 1:].flatten())


def distributed(model: Writer, shard: bool) -> torch.nn.Module:
    if not shard:
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def text() -> torch.Tensor:
    """Python's manual, which ships with Python."""
    return torch.tensor(list("\n".join(topics.values()).encode("ascii", "replace")))


def train(given: argparse.Namespace) -> None:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    letters = text()
    torch.manual_seed(0)
    model = distributed(Writer(), given.shard)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    begun = load(given.checkpoint, model, optimizer)
    for step in range(begun, given.steps):
        if step == given.kill_at and not begun:
            kill_last_rank()
        # All ranks together read the same places, however many they are.
        places = torch.randint(len(letters) - TOKENS, (BATCH,), generator=torch.Generator().manual_seed(step))
        chosen = torch.stack([letters[place : place + TOKENS + 1] for place in places[rank::ranks]])
        loss = model(chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % given.save_every == 0:
            save(given.checkpoint, model, optimizer, step + 1)
            total = loss.detach()
            dist.all_reduce(total)
            if rank == 0:
                print(f"step {step + 1}: loss {total.item() / ranks:.4f}", flush=True)
    if rank == 0:
        how = "FSDP2" if given.shard else "DDP"
        print(f"{dist.get_backend()}, {how}: {given.steps} steps, begun at {begun}", flush=True)


WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def load(file: Path | None, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Returns the step to begin with."""
    if file is None or not file.exists():
        return 0
    saved = torch.load(file)
    set_state_dict(
        model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"], options=WHOLE
    )
    return int(saved["step"])


def save(file: Path | None, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Every rank calls it, as the parts of a sharded model come together. Rank 0 writes."""
    if file is None:
        return
    states = get_state_dict(model, optimizer, options=WHOLE)
    if dist.get_rank() == 0:
        torch.save({"model": states[0], "optimizer": states[1], "step": step}, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)


def main() -> None:
    given = arguments()
    dist.init_process_group(given.backend)
    try:
        train(given)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
