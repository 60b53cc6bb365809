"""Trains a small neural network on handwritten digits, data-parallel over several processes.

Start it with 4 ranks:  muster run -n 4 -- python python/examples/digits.py
Over memory of GPUs:    muster run -n 4 -- python python/examples/digits.py --device cuda

Every rank computes the gradient of its share of each batch. ``gradient()`` is a plain NumPy function; the decorator
puts its result into Muster's store without a copy. An allreduce gives every rank the mean, and every rank takes the
same step, so the weights stay bit-identical without ever being sent.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import muster
import numpy as np
from sklearn.datasets import load_digits

HIDDEN, CLASSES = 64, 10
BATCH, EPOCHS, RATE, MOMENTUM = 128, 30, 0.15, 0.9


def load(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Loads 1,797 images of 8 x 8 pixels, shuffled in the same way on every rank; a fifth of them are for testing."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images, labels = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    tested = len(labels) // 5
    return images[tested:], labels[tested:], images[:tested], labels[:tested]


def first_weights(seed: int = 1) -> dict[str, np.ndarray]:
    """The first weights are the same on every rank: they come from the same seed."""
    random = np.random.default_rng(seed)
    return {
        "w1": (random.standard_normal((64, HIDDEN)) * np.sqrt(2 / 64)).astype(np.float32),
        "b1": np.zeros(HIDDEN, np.float32),
        "w2": (random.standard_normal((HIDDEN, CLASSES)) * np.sqrt(2 / HIDDEN)).astype(np.float32),
        "b2": np.zeros(CLASSES, np.float32),
    }


def forward(weights: dict[str, np.ndarray], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    scores -= scores.max(axis=1, keepdims=True)
    likely = np.exp(scores)
    return hidden, likely / likely.sum(axis=1, keepdims=True)


def plain_gradient(weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of the mean cross-entropy, and the loss itself. This function does not know Muster."""
    hidden, likely = forward(weights, images)
    count = np.float32(len(labels))
    loss = -np.log(likely[np.arange(len(labels)), labels] + 1e-9).mean()
    likely[np.arange(len(labels)), labels] -= 1
    likely /= count
    back = (likely @ weights["w2"].T) * (hidden > 0)
    return {
        "w1": images.T @ back,
        "b1": back.sum(axis=0),
        "w2": hidden.T @ likely,
        "b2": likely.sum(axis=0),
        "loss": np.full(1, loss, np.float32),
    }


# This line alone puts the results into the store.
gradient = muster.collective_input(plain_gradient)


def gradient_on(device: str) -> Callable[..., muster.Ref]:
    """The same with the results in memory of a GPU. NumPy knows no GPU, so it hands them over there."""

    @muster.collective_input(device=device)
    def computed(*given: Any) -> dict[str, muster.DeviceArray]:
        made = {}
        for name, value in plain_gradient(*given).items():
            made[name] = muster.empty(value.shape, value.dtype, device=device)
            made[name].copy_from(value)
        return made

    return computed


def device_of(name: str, rank: int) -> str:
    """The device of a rank: "cuda" shares all GPUs of the node out."""
    gpus = [gpu["device"] for gpu in muster.status()["gpus"]]
    return gpus[rank % len(gpus)] if name == "cuda" and gpus else name


def on_host(value: Any) -> np.ndarray:
    return value.to_host() if isinstance(value, muster.DeviceArray) else value


def step(weights: dict, speed: dict, mean: dict) -> None:
    """Makes a step of gradient descent with momentum, in place."""
    for name, value in weights.items():
        speed[name] *= np.float32(MOMENTUM)
        speed[name] -= np.float32(RATE) * mean[name]
        value += speed[name]


def accuracy(weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    return float((forward(weights, images)[1].argmax(axis=1) == labels).mean())


def batches(count: int, epoch: int) -> list[np.ndarray]:
    order = np.random.default_rng(100 + epoch).permutation(count)
    return [order[first : first + BATCH] for first in range(0, count - BATCH + 1, BATCH)]


def fingerprint(weights: dict[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256(b"".join(value.tobytes() for value in weights.values())).digest()
    return np.frombuffer(digest, np.uint8)


class Deposits:
    """Counts what this rank put into the store: the daemon's totals may include other programs."""

    def __init__(self) -> None:
        self.bytes = self.copied_bytes = self.copies = 0
        self._alive: weakref.WeakSet[muster.Ref] = weakref.WeakSet()

    def add(self, ref: muster.Ref) -> None:
        self.bytes += ref.nbytes
        self.copied_bytes += ref.nbytes if ref.copies else 0
        self.copies += ref.copies
        self._alive.add(ref)

    @property
    def objects_left(self) -> int:
        return len(self._alive)


def train(
    group: muster.Group, epochs: int, device: str, deposits: Deposits
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Trains on all ranks together; returns the weights and the loss of each epoch."""
    images, labels, test_images, test_labels = load()
    weights = first_weights()
    speed = {name: np.zeros_like(value) for name, value in weights.items()}
    computed = gradient if device == "cpu" else gradient_on(device_of(device, group.rank))
    losses = []
    for epoch in range(epochs):
        loss, waited, copies = 0.0, 0.0, deposits.copies
        rounds = batches(len(labels), epoch)
        begin = time.perf_counter()
        for done, batch in enumerate(rounds, start=1):
            mine = batch[group.rank :: group.world_size]
            ref = computed(weights, images[mine], labels[mine])
            deposits.add(ref)
            before = time.perf_counter()
            mean = {name: on_host(value) for name, value in group.allreduce(ref, op="mean").result().items()}
            waited += time.perf_counter() - before
            step(weights, speed, mean)
            loss += float(mean["loss"][0])
            if group.rank == 0:
                progress(epoch, epochs, done / len(rounds))
        took = time.perf_counter() - begin
        losses.append(loss / len(rounds))
        if group.rank == 0:
            print(
                f"\repoch {epoch + 1:2d}/{epochs}  loss {losses[-1]:.4f}  test accuracy "
                f"{accuracy(weights, test_images, test_labels):.4f}  {took / len(rounds) * 1e3:6.2f} ms/step  "
                f"{waited / took:5.1%} in the collective  copies {deposits.copies - copies}",
                flush=True,
            )
    return weights, losses


def progress(epoch: int, epochs: int, share: float) -> None:
    if sys.stdout.isatty():
        filled = int(30 * (epoch + share) / epochs)
        print(f"\r[{'#' * filled}{'.' * (30 - filled)}]", end="", flush=True)


def train_alone(ranks: int, epochs: int) -> dict[str, np.ndarray]:
    """The same training in one process, without Muster: the mean over the same shares."""
    images, labels, _, _ = load()
    weights = first_weights()
    speed = {name: np.zeros_like(value) for name, value in weights.items()}
    for epoch in range(epochs):
        for batch in batches(len(labels), epoch):
            shares = [plain_gradient(weights, images[batch[r::ranks]], labels[batch[r::ranks]]) for r in range(ranks)]
            step(weights, speed, {name: np.mean([share[name] for share in shares], axis=0) for name in weights})
    return weights


def draw(weights: dict[str, np.ndarray], losses: list[float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, _, images, labels = load()
    predicted = forward(weights, images)[1].argmax(axis=1)
    figure = pyplot.figure(figsize=(9, 4), layout="constrained")
    curve, pictures = figure.subfigures(1, 2)
    axes = curve.subplots()
    axes.plot(range(1, len(losses) + 1), losses)
    axes.set(xlabel="epoch", ylabel="loss", title="training loss", yscale="log")
    for index, one in enumerate(pictures.subplots(4, 5).flat):
        one.imshow(images[index].reshape(8, 8), cmap="gray_r")
        right = predicted[index] == labels[index]
        one.set_title(str(predicted[index]), color="black" if right else "red", fontsize=9)
        one.axis("off")
    figure.savefig(path, dpi=100)


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def all_alike(group: muster.Group, weights: dict[str, np.ndarray]) -> bool:
    """Whether all ranks have the same bits."""
    prints = group.allgather(fingerprint(weights)).result()
    return all(np.array_equal(prints[0], other) for other in prints)


def report(group: muster.Group, weights: dict, losses: list[float], copies: int, options: argparse.Namespace) -> bool:
    """Prints the summary of rank 0. Returns whether everything is as it should be."""
    identical = all_alike(group, weights)
    total_copies = int(group.allreduce(copies).result())
    if group.rank != 0:
        return True
    alone = train_alone(group.world_size, options.epochs)
    worst = max(float(np.abs(weights[name] - alone[name]).max()) for name in weights)
    agrees = worst < 1e-2
    print(f"weights: {'bit-identical' if identical else 'DIFFERENT'} on all {group.world_size} ranks")
    print(
        f"weights: {'agree' if agrees else 'DISAGREE'} with the same training in one process "
        f"(largest difference {worst:.2e})"
    )
    draw(weights, losses, options.picture)
    print(f"picture of the loss and of predicted digits: {options.picture}")
    print(f"copies: {total_copies} of all ranks' gradients")
    return identical and agrees and total_copies == 0


def account(group: muster.Group, deposits: Deposits) -> bool:
    """Prints what all ranks deposited, after each has dropped its refs."""
    mine = np.array([deposits.bytes, deposits.copied_bytes, deposits.objects_left])
    deposited, copied, left = (int(total) for total in group.allreduce(mine).result())
    if group.rank == 0:
        print(
            f"store: {mebibytes(deposited)} deposited, {mebibytes(deposited - copied)} of them with 0 copies, "
            f"{mebibytes(copied)} copied; objects left {left}"
        )
    return left == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--device", default="cpu", help="where gradients lie: cpu, cuda (all GPUs), or cuda:0 and so on"
    )
    parser.add_argument("--picture", type=Path, default=Path("digits.png"), help="where the picture goes")
    options = parser.parse_args()

    muster.init()
    try:
        group = muster.group("digits")
    except muster.Invalid as error:
        print(f"{error}\nstart it with: muster run -n 4 -- python {sys.argv[0]}", file=sys.stderr)
        return 2
    with group:
        deposits = Deposits()
        weights, losses = train(group, options.epochs, options.device, deposits)
        good = report(group, weights, losses, deposits.copies, options)
        good = account(group, deposits) and good
        if group.rank == 0:
            _, _, images, labels = load()
            print(f"test accuracy: {accuracy(weights, images, labels):.4f}", flush=True)
        group.barrier().result()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
