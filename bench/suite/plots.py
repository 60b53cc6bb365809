"""Pictures: latency and bandwidth over size with the bound drawn in, and growth curves."""

from __future__ import annotations

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from suite.growth import Curves
from suite.report import Figure

BOUNDS = {
    "stream": "bound: the same additions without coordination",
    "mailbox": "bound: a reducing process and nothing but mailboxes",
}


def draw(figures: list[Figure], curves: Curves, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for ranks in sorted({one.ranks for one in figures if one.op == "allreduce" and one.ranks > 1}):
        of_ranks = [one for one in figures if one.op == "allreduce" and one.variant == "default" and one.ranks == ranks]
        over_size(of_ranks, "median_us", "microseconds", folder / f"latency-{ranks}.png", f"allreduce, {ranks} ranks")
        over_size(of_ranks, "gbps", "GB/s", folder / f"bandwidth-{ranks}.png", f"allreduce, {ranks} ranks")
    grown(curves, folder / "growth.png")


def over_size(figures: list[Figure], value: str, unit: str, path: pathlib.Path, title: str) -> None:
    picture, axes = plt.subplots(figsize=(7, 5))
    for system, client in sorted({(one.system, one.client) for one in figures}):
        points = sorted(
            (one.bytes, getattr(one, value)) for one in figures if (one.system, one.client) == (system, client)
        )
        label = BOUNDS.get(system, f"{system} ({client})")
        bound = system in BOUNDS
        axes.loglog(*zip(*points), "k--" if bound else "o-", label=label)
    axes.set(xlabel="bytes of one rank's input", ylabel=unit, title=title)
    axes.set_xscale("log", base=2)
    axes.grid(which="major", alpha=0.3)
    axes.legend(fontsize="small")
    picture.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(picture)


def grown(curves: Curves, path: pathlib.Path) -> None:
    picture, axes = plt.subplots(figsize=(7, 5))
    for axis, points in curves.items():
        axes.loglog(*zip(*points), "o-", label=f"{axis}: for each")
    axes.set(xlabel="number", ylabel="microseconds", title="cost as something grows")
    axes.grid(which="major", alpha=0.3)
    axes.legend(fontsize="small")
    picture.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(picture)
