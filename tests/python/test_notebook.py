"""A notebook: cells that define, redefine and share decorated functions, an interrupted cell, a restarted kernel."""

from __future__ import annotations

import asyncio
import os
import pathlib
import textwrap

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from daemon import Daemon

PATIENCE_S = 100

DEFINE = """
    import concurrent.futures, multiprocessing, os
    import joblib
    import numpy as np
    import muster

    @muster.collective_input
    def powers(base):
        return {"powers": base ** np.arange(5.0)}

    first = powers(2)
    print(os.getpid(), first.copies, first.get()["powers"].sum() == (2 ** np.arange(5.0)).sum())
"""

REDEFINE = """
    @muster.collective_input
    def powers(base):
        return {"powers": -(base ** np.arange(5.0))}

    second = powers(2)
    both = muster.allreduce_refs([first, second]).result()
    print(second.copies, np.array_equal(both["powers"], np.zeros(5)))
"""

# Cells are not a module that a worker can import. So loky takes a function by value, and a forked worker inherits it.
SHARE = """
    expected = -sum(base ** np.arange(5.0) for base in range(4))
    by_loky = joblib.Parallel(n_jobs=2)(joblib.delayed(powers)(base) for base in range(4))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        by_fork = list(pool.map(powers, range(4)))
    for refs in (by_loky, by_fork):
        total = muster.allreduce_refs(refs).result()
        print(sum(ref.copies for ref in refs), np.array_equal(total["powers"], expected))
"""

WAIT = """
    group = muster.group("notebook", rank=0, world_size=2)
    work = group.allreduce(powers(3))
    open(os.environ["WAITS"], "w").close()
    work.result()
"""

GO_ON = """
    with muster.group("notebook", rank=1, world_size=2) as other:
        other.allreduce(powers(4))
        found = work.result()
    print(np.array_equal(found["powers"], -(3 ** np.arange(5.0)) - 4 ** np.arange(5.0)))
"""


class Notebook:
    def __init__(self) -> None:
        self.client = NotebookClient(nbformat.v4.new_notebook(), timeout=PATIENCE_S, kernel_name="python3")

    async def run(self, code: str) -> list[str]:
        """Runs a cell and returns the words that it prints."""
        cells = self.client.nb.cells
        cells.append(nbformat.v4.new_code_cell(textwrap.dedent(code)))
        await self.client.async_execute_cell(cells[-1], len(cells) - 1)
        return "".join(output.get("text", "") for output in cells[-1].outputs).split()


async def _interrupted(notebook: Notebook, waits: pathlib.Path) -> str:
    cell = asyncio.create_task(notebook.run(WAIT))
    while not cell.done() and not waits.exists():  # the cell sets `work` before it creates the file
        await asyncio.sleep(0)
    await notebook.client.km.interrupt_kernel()
    try:
        await cell
    except CellExecutionError as error:
        return error.ename
    return "went on"


async def _restart(notebook: Notebook, daemon: Daemon, kernel: int) -> None:
    """Returns when the daemon has noticed the kernel's end, and nobody needs anything of it any more."""
    await notebook.client.km.restart_kernel(now=True)
    await notebook.client.kc.wait_for_ready(timeout=PATIENCE_S)
    daemon.status_once(lambda told: all(client["pid"] != kernel for client in told["clients"]))
    daemon.until_nothing_is_needed()


async def _session(daemon: Daemon, waits: pathlib.Path) -> None:
    notebook = Notebook()
    environment = {**os.environ, "MUSTER_SOCKET": daemon.socket, "WAITS": str(waits)}
    async with notebook.client.async_setup_kernel(env=environment):
        kernel, *printed = await notebook.run(DEFINE)
        assert printed == ["0", "True"]
        assert await notebook.run(REDEFINE) == ["0", "True"]
        assert await notebook.run(SHARE) == ["0", "True"] * 2
        assert await _interrupted(notebook, waits) == "KeyboardInterrupt"
        assert await notebook.run(GO_ON) == ["True"]
        assert daemon.needed() != []
        await _restart(notebook, daemon, int(kernel))
        again, *printed = await notebook.run(DEFINE)
        assert again != kernel
        assert printed == ["0", "True"]


def test_a_session_with_a_notebook(own_daemon, tmp_path):
    asyncio.run(_session(own_daemon, tmp_path / "waits"))
