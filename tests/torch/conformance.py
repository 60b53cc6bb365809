"""Runs torch's own tests of ``torch.distributed`` over a backend: they ship in torch's wheel.

usage: python tests/torch/conformance.py [--backend muster|gloo] [--ranks N] [--json FILE] [--all-to-all] [TEST...]
       python tests/torch/conformance.py --table FILE...

Without names it runs all of them. torch's decorators decide while the module is imported, so they see "gloo", and the
tests that torch has for Gloo on the host are there; then the backend is set to Muster. Its 12 tests of all-to-all are
only there for "mpi": ``--all-to-all`` runs these, and no others. ``--table`` prints the rows of README.md from files
that ``--json`` wrote.

The exit status is 1 if a test fails that is not in ``FAILS``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: torch's tests, and the names of the outcomes.
MODULE = "torch.testing._internal.distributed.distributed_test"
PATIENCE_S = 120
#: Their bodies know backends by name, and do nothing useful for others. They see "gloo" once the group is Muster's.
KNOW_NAMES = (
    "test_accumulate_gradients_no_sync",
    "test_accumulate_gradients_no_sync_allreduce_hook",
    "test_accumulate_gradients_no_sync_allreduce_with_then_hook",
    "test_accumulate_gradients_no_sync_grad_is_view",
)
#: What fails over Muster, and why: by the version of torch.
_MONITORED = "torch 2.13 refuses `dist.monitored_barrier()` for any backend but Gloo; the group's own method works"
_COMPLETED = "torch 2.14 does not pass on `is_completed()` of works that are written in Python"
_SOURCE = "torch 2.14 does not pass on the source of works that are written in Python"
FAILS_WITH = {
    "2.13": {
        "test_monitored_barrier_failure_order": _MONITORED,
        "test_monitored_barrier_gloo": _MONITORED,
        "test_monitored_barrier_gloo_subgroup": _MONITORED,
        "test_monitored_barrier_wait_all_ranks": _MONITORED,
    },
    "2.14": {
        "test_ddp_logging_data_cpu": 'torch 2.14 logs all backends but its own as "custom"',
        "test_irecv": _COMPLETED,
        "test_isend": _COMPLETED,
        "test_isend_autograd_profiler": _COMPLETED,
        "test_isend_torch_profiler": _COMPLETED,
        "test_send_recv_any_source": _SOURCE,
        "test_send_recv_any_source_autograd_profiler": _SOURCE,
        "test_send_recv_any_source_torch_profiler": _SOURCE,
    },
}
TORCH = ".".join(importlib.metadata.version("torch").split(".")[:2])
FAILS = FAILS_WITH[TORCH]


def load(backend: str, ranks: int, folder: str, gate: str = "gloo") -> type[unittest.TestCase]:
    """Imports torch's tests for a backend, once in a process. Returns the class that has them."""
    os.environ.update(
        BACKEND=gate, WORLD_SIZE=str(ranks), TEMP_DIR=folder, DISTRIBUTED_TESTS_DEFAULT_TIMEOUT=str(PATIENCE_S)
    )
    import torch.multiprocessing

    if backend == "muster":
        import muster.torch

        assert muster.torch.NAME == "muster"
    tests: Any = importlib.import_module(MODULE)
    tests.BACKEND = backend

    class Conformance(tests.TestDistBackend, tests.DistributedTest._DistTestBase):  # type: ignore[misc]
        """torch starts the ranks anew for each test. A fork need not import torch again."""

        def setUp(self) -> None:
            super().setUp()
            self._start_processes(torch.multiprocessing.get_context("fork").Process)

        def run_test(self, test_name: str, parent_pipe: Any) -> None:
            assert torch.distributed.get_backend() == backend
            if test_name in KNOW_NAMES:
                tests.BACKEND = gate
            super().run_test(test_name, parent_pipe)

    return Conformance


def names(suite: type[unittest.TestCase]) -> list[str]:
    """The tests that would run: torch has marked the others as not for this machine and backend."""
    found = unittest.TestLoader().getTestCaseNames(suite)
    return [name for name in found if not getattr(getattr(suite, name), "__unittest_skip__", False)]


def run(suite: type[unittest.TestCase], name: str) -> tuple[str, str]:
    """Runs one test. Returns its outcome, and why if it is no pass."""
    result = unittest.TestResult()
    with _quiet():
        suite(name).run(result)
    if result.skipped:
        return "skip", result.skipped[0][1]
    if result.failures or result.errors:
        return "fail", (result.failures + result.errors)[0][1]
    return "pass", ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what the ranks write: they inherit the descriptors."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in zip((1, 2), kept):
            os.dup2(copy, number)
        for descriptor in (nowhere, *kept):
            os.close(descriptor)


def main() -> int:
    arguments = _arguments()
    if arguments.table:
        print(table([json.loads(Path(file).read_text()) for file in arguments.table]))
        return 0
    outcomes: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        gate = "mpi" if arguments.all_to_all else "gloo"
        suite = load(arguments.backend, arguments.ranks, folder, gate)
        chosen = arguments.tests or [name for name in names(suite) if not arguments.all_to_all or "all_to_all" in name]
        for name in chosen:
            begun = time.monotonic()
            outcomes[name] = run(suite, name)
            print(f"{outcomes[name][0]}  {name}  {time.monotonic() - begun:.1f} s", flush=True)
            if outcomes[name][0] == "fail":
                print(outcomes[name][1], flush=True)
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"torch": TORCH, "backend": arguments.backend, "outcomes": outcomes}, indent=1)
        )
    counts = {kind: sum(outcome == kind for outcome, _ in outcomes.values()) for kind in ("pass", "fail", "skip")}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    failed = {name for name, (outcome, _) in outcomes.items() if outcome == "fail"}
    expected = FAILS.keys() & outcomes.keys() if arguments.backend == "muster" else set()
    if expected - failed:
        print("these are said to fail, and do not:", ", ".join(sorted(expected - failed)))
    return 1 if failed != expected else 0


def table(files: list[dict[str, Any]]) -> str:
    """The rows of README.md. A test that needs GPUs is in no row."""
    columns = [(version, backend) for version in FAILS_WITH for backend in ("gloo", "muster")]
    found: dict[tuple[str, str], dict[str, str]] = {column: {} for column in columns}
    for file in files:
        found[file["torch"], file["backend"]].update(
            {name: outcome for name, (outcome, _) in file["outcomes"].items() if outcome != "skip"}
        )
    rows = []
    for name in sorted(set().union(*found.values())):
        outcomes = [found[column].get(name, "-") for column in columns]
        why = [fails[name] for fails in FAILS_WITH.values() if name in fails]
        if name not in found["2.13", "gloo"] and name in found["2.13", "muster"]:
            why.append("torch has it for MPI only")
        rows.append(f"| `{name}` | {' | '.join(outcomes)} | {'; '.join(why)} |")
    return "\n".join(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs torch's own tests of torch.distributed over a backend.")
    parser.add_argument("tests", nargs="*", metavar="TEST")
    parser.add_argument("--backend", default="muster", choices=["muster", "gloo"])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--all-to-all", action="store_true")
    parser.add_argument("--table", nargs="+", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
