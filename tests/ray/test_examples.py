"""The examples for Ray, each with a cluster of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "python" / "examples" / "ray"
PATIENCE_S = 240


def printed_by(name, folder, *options):
    environment = {name: value for name, value in os.environ.items() if name != "MUSTER_SOCKET"}
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *options],
        env={**environment, "RAY_ADDRESS": "local"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("training.py", ["--steps", "30", "--kill-at", "20"], "weights: the same, bit for bit"),
        ("regression.py", [], "6 blocks, 442 rows, R^2 0.5177\nweights: agree with NumPy's"),
        (
            "product.py",
            [],
            "9 sums of 2 products\nK: the same as NumPy's\nthe most similar other image shows the same digit: 0.98",
        ),
        ("parameter_server.py", ["--updates", "150"], "after 150 updates: accuracy 0.9"),
        ("samplers.py", ["--rounds", "10"], "30 samples of 10 versions, 0 mixed"),
    ],
)
def test_it_does_what_it_says(tmp_path, name, options, says):
    assert says in printed_by(name, tmp_path, *options)
