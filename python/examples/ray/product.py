"""Multiplies a matrix in blocks, as NumS does it, and finds for each handwritten digit the most similar other one.

    python python/examples/ray/product.py

X has 1,797 images of 64 pixels, in blocks X[i][k] of rows and columns. A block of K = XX' is a sum:
K[i][j] = X[i][0] X[j][0]' + X[i][1] X[j][1]' + ... Each task computes one product, and one op for each block of K adds
its products up. The next tasks read the blocks of K where they lie: no block ever passes through Ray's object store.
"""

from __future__ import annotations

import argparse

import muster
import muster.ray
import numpy as np
import ray
from sklearn.datasets import load_digits


@ray.remote
@muster.collective_input
def block_of(rows: slice, columns: slice) -> np.ndarray:
    """Loads a block of the images, of the shape (rows, columns)."""
    return np.array(load_digits().data[rows, columns])


@ray.remote
@muster.collective_input
def product(left: muster.Ref, right: muster.Ref) -> np.ndarray:
    """Returns left right'. Both blocks are read where they lie."""
    return left.get() @ right.get().T


@ray.remote
def most_similar(row: list[muster.Ref], first: int, squares: np.ndarray) -> np.ndarray:
    """Returns, for each image of a row of blocks, which other image is the nearest: |a - b|^2 = aa + bb - 2 ab."""
    inner = np.hstack([block.get() for block in row])
    distances = squares[first : first + len(inner), None] + squares[None, :] - 2 * inner
    own = np.arange(len(inner))
    distances[own, first + own] = np.inf
    return distances.argmin(axis=1)


def cut(length: int, pieces: int) -> list[slice]:
    """Cuts a length into pieces, which are equal or nearly so."""
    bounds = np.linspace(0, length, pieces + 1).astype(int)
    return [slice(int(first), int(end)) for first, end in zip(bounds, bounds[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3, help="blocks in a column of X")
    parser.add_argument("--columns", type=int, default=2, help="blocks in a row of X")
    options = parser.parse_args()
    muster.ray.init(memory="256MiB", num_cpus=2, include_dashboard=False)
    data = load_digits()
    rows, columns = cut(data.data.shape[0], options.rows), cut(data.data.shape[1], options.columns)
    x = [[block_of.remote(part, column) for column in columns] for part in rows]
    k = [
        [muster.allreduce_refs([product.remote(a, b) for a, b in zip(x[i], x[j])]) for j in range(len(rows))]
        for i in range(len(rows))
    ]
    print(f"K in {len(rows)} x {len(rows)} blocks: {len(rows) ** 2} sums of {len(columns)} products")

    whole = np.block([[block.result() for block in row] for row in k])
    same = np.array_equal(whole, data.data @ data.data.T)  # pixels are whole numbers, so no sum is rounded
    print("K:", "the same as NumPy's" if same else "DIFFERS from NumPy's")
    squares = np.diag(whole)
    nearest = [most_similar.remote([block.ref for block in row], part.start, squares) for row, part in zip(k, rows)]
    found = data.target[np.concatenate(ray.get(nearest))]
    print(f"the most similar other image shows the same digit: {np.mean(found == data.target):.4f}")
    muster.ray.shutdown()


if __name__ == "__main__":
    main()
