"""Fits a linear regression to a real data set, in blocks: one task for each block, as NumS does it.

    python python/examples/ray/regression.py

The normal equations need X'X and X'y, which are sums over blocks of rows. Each task computes its block's part, and one
op adds them up, in the order of the blocks. No block and no part ever passes through Ray's object store.
"""

from __future__ import annotations

import argparse

import muster
import muster.ray
import numpy as np
import ray
from sklearn.datasets import load_diabetes


@ray.remote
@muster.collective_input
def block_of(first: int, rows: int) -> dict[str, np.ndarray]:
    """Loads a block of rows: 10 features and a constant, and what is to be predicted."""
    data = load_diabetes()
    x = np.empty((min(rows, len(data.target) - first), 11))
    x[:, 0] = 1
    x[:, 1:] = data.data[first : first + rows]
    return {"x": x, "y": np.array(data.target[first : first + rows])}


@ray.remote
@muster.collective_input
def products(block: muster.Ref) -> dict[str, np.ndarray]:
    """A block's part of the normal equations. The block is read where it lies."""
    value = block.get()
    x, y = value["x"], value["y"]
    return {"xx": x.T @ x, "xy": x.T @ y, "yy": np.array(y @ y), "y": np.array(y.sum()), "rows": np.array(len(y))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6)
    options = parser.parse_args()
    muster.ray.init(memory="256MiB", num_cpus=2, include_dashboard=False)
    count = len(load_diabetes().target)
    rows = -(-count // options.blocks)
    blocks = [block_of.remote(first, rows) for first in range(0, count, rows)]
    total = muster.allreduce_refs([products.remote(block) for block in blocks]).result()
    weights = np.linalg.solve(total["xx"], total["xy"])
    residual = total["yy"] - weights @ total["xy"]
    spread = total["yy"] - total["y"] ** 2 / total["rows"]
    print(f"{len(blocks)} blocks, {int(total['rows'])} rows, R^2 {1 - residual / spread:.4f}")

    data = load_diabetes()
    whole = np.column_stack([np.ones(count), data.data])
    expected = np.linalg.lstsq(whole, data.target, rcond=None)[0]
    print("weights:", "agree with NumPy's" if np.allclose(weights, expected) else "DIFFER from NumPy's")
    muster.ray.shutdown()


if __name__ == "__main__":
    main()
