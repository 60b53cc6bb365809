"""Runs torchft's own tests of process groups over a backend: they ship in its wheel.

usage: python tests/torch/torchft_conformance.py [--backend muster|gloo] [--json FILE]

``MultiPgBaseTest`` has ranks that are threads of one process. It runs each collective; then it makes a new group, lets
the last rank leave, and expects an error on the others within a second. torchft's own class for Gloo leaves out what
Gloo lacks; Muster has to do all of them. The exit status is 1 if a test fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import unittest
import warnings
from pathlib import Path
from typing import Any

PATIENCE_S = 10


def load(backend: str) -> type[unittest.TestCase]:
    """Returns the class that has torchft's tests for a backend: two for each collective."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datetime import timedelta

        import muster.torch
        from torchft import process_group_test as tests
        from torchft.process_group import ProcessGroupWrapper

    class ProcessGroupMuster(ProcessGroupWrapper):  # type: ignore[misc]
        """As docs/guides/torch_distributed.rst has it: a group that can be made again."""

        def _create_pg(self, store: Any, rank: int, world_size: int) -> Any:
            return muster.torch.Seat(store, rank, world_size, self._timeout)

        def shutdown(self) -> None:
            self.abort(errored=False)

        def getBackendName(self) -> str:
            return "torchft-muster"

    class Conformance(tests.MultiPgBaseTest):  # type: ignore[misc]
        BACKEND, WORLD_SIZE = backend, 3

        @classmethod
        def _create_pg(cls, name: str) -> Any:
            if name == "muster":
                return ProcessGroupMuster(timeout=timedelta(seconds=PATIENCE_S))
            return super()._create_pg(name)

    for collective in tests._ALL_COLLECTIVES:
        for suffix, method in (("", "_run_parallel"), ("_with_resiliency", "_run_with_resiliency")):
            setattr(Conformance, f"test_{collective}{suffix}", _calling(method, collective))
    return Conformance


def _calling(method: str, collective: str) -> Any:
    return lambda self: getattr(self, method)(collective, device="cpu")


def run(backend: str) -> dict[str, str]:
    """Returns the outcome of each test."""
    suite = load(backend)
    outcomes = {}
    for name in unittest.TestLoader().getTestCaseNames(suite):
        result = unittest.TestResult()
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            unittest.TestSuite([suite(name)]).run(result)
        wrong = result.failures + result.errors
        outcomes[name] = "fail" if wrong else "pass"
        print(f"{outcomes[name]}  {name}", flush=True)
        for _, trace in wrong:
            print(trace, said.getvalue(), flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs torchft's own tests of process groups over a backend.")
    parser.add_argument("--backend", default="muster", choices=["muster", "gloo"])
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    outcomes = run(arguments.backend)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"backend": arguments.backend, "outcomes": outcomes}, indent=1))
    counts = {kind: sum(outcome == kind for outcome in outcomes.values()) for kind in ("pass", "fail")}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 1 if counts["fail"] else 0


if __name__ == "__main__":
    sys.exit(main())
