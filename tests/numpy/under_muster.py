"""A pytest plugin that runs each test of NumPy's own suite in a decorated call, so its arrays are made in the store.

``--plain`` leaves Muster out. ``--outcomes FILE`` writes the outcome of each test to a file, to compare two runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import muster
import pytest
from numpy._core.multiarray import get_handler_name

outcomes: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plain", action="store_true", help="without Muster")
    parser.addoption("--outcomes", type=Path, help="a file for the outcome of each test")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not session.config.getoption("--plain"):
        muster.init(memory="2GiB")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if item.config.getoption("--plain"):
        return (yield)
    run = item.runtest

    @muster.collective_input
    def in_the_store() -> None:
        assert get_handler_name() == "muster"
        run()

    item.runtest = in_the_store
    try:
        return (yield)
    finally:
        item.runtest = run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> Iterator[None]:
    """Collects pytest's own word for each outcome, which is empty for a step without one."""
    status = yield
    if status and status[0]:
        outcomes[report.nodeid] = status[0]
    return status


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := session.config.getoption("--outcomes"):
        path.write_text("".join(f"{outcome} {test}\n" for test, outcome in sorted(outcomes.items())))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--plain"):
        return
    told = muster.status()
    terminalreporter.write_line(
        f"muster: at most {told['memory_peak_bytes'] >> 20} MiB in the store at once; objects left: {told['objects']}"
    )
