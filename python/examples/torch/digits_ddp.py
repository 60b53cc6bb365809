"""Trains on handwritten digits with PyTorch's DistributedDataParallel. Only the backend's name is Muster's.

With torchrun:    torchrun --nproc-per-node 4 python/examples/torch/digits_ddp.py
With muster run:  muster run -n 4 -- python python/examples/torch/digits_ddp.py
Over Gloo:        torchrun --nproc-per-node 4 python/examples/torch/digits_ddp.py --backend gloo

``--checkpoint FILE`` saves every step, and goes on from the last one saved. With ``--kill-at STEP`` the last rank kills
itself at that step, once: the others get an error that names it, and ``torchrun --max-restarts 1`` starts them again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import muster.torch  # noqa: F401
import torch
import torch.distributed as dist
from lost import kill_last_rank
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel

RATE, BATCH = 0.2, 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains on handwritten digits with DDP.")
    parser.add_argument("--backend", default="muster")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--kill-at", type=int, metavar="STEP")
    return parser.parse_args()


def train(given: argparse.Namespace) -> None:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model = DistributedDataParallel(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    begun = load(given.checkpoint, layers)
    for step in range(begun, given.steps):
        if step == given.kill_at and not begun:
            kill_last_rank()
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:BATCH][rank::ranks]
        loss = torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        save(given.checkpoint, layers, step + 1)
    right = (layers(images).argmax(1) == labels).float().mean()
    if rank == 0:
        print(f"{dist.get_backend()}: {right:.1%} right after {given.steps} steps, begun at {begun}", flush=True)


def load(file: Path | None, layers: torch.nn.Module) -> int:
    """Returns the step to begin with."""
    if file is None or not file.exists():
        return 0
    saved = torch.load(file)
    layers.load_state_dict(saved["layers"])
    return int(saved["step"])


def save(file: Path | None, layers: torch.nn.Module, step: int) -> None:
    if file is not None and dist.get_rank() == 0:
        torch.save({"layers": layers.state_dict(), "step": step}, file.with_suffix(".part"))
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
