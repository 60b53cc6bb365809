"""Runs every Python example of README.md and docs/, and compares its output with the text below it.

Each runs as a script in a fresh process, with a daemon of its own. If the caption (in README.md: the text before it)
says ``muster run -n N``, it runs with N ranks. A block of text with the caption ``Output`` after an example is its
output; ``...`` stands for anything, and lines of ranks come in any order. ``:class: sketch`` marks an example that
can't run.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import output_of

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180  # some start Ray
DIRECTIVE = re.compile(r"^\.\. code-block:: (\w+)\n((?:   :.*\n)*)\n((?:   .*\n|\n)+)", re.MULTILINE)


@dataclasses.dataclass
class Example:
    code: str
    ranks: int  # 0: without launcher
    output: str | None  # None: the page shows no output


def ranks_in(text: str) -> int:
    found = re.search(r"muster run -n (\d+)", text)
    return int(found[1]) if found else 0


def examples_in_markdown(text: str) -> Iterator[Example]:
    for found in re.finditer(r"```python\n(.*?)```", text, flags=re.DOTALL):
        before = text[: found.start()].rstrip().rpartition("\n\n")[2]
        yield Example(found[1], ranks_in(before), None)


def examples_in_page(text: str) -> Iterator[Example]:
    blocks = list(DIRECTIVE.finditer(text))
    for number, found in enumerate(blocks):
        language, options, code = found.groups()
        if language != "python" or ":class: sketch" in options:
            continue
        after = blocks[number + 1] if number + 1 < len(blocks) else None
        is_output = after and after[1] == "text" and ":caption: Output" in after[2]
        output = textwrap.dedent(after[3]).strip() if after and is_output else None
        yield Example(textwrap.dedent(code).strip() + "\n", ranks_in(options), output)


def all_examples() -> Iterator[pytest.param]:
    for number, example in enumerate(examples_in_markdown((ROOT / "README.md").read_text())):
        yield pytest.param(example, id=f"README.md-{number}")
    for page in sorted((ROOT / "docs").rglob("*.rst")):
        for number, example in enumerate(examples_in_page(page.read_text())):
            yield pytest.param(example, id=f"{page.relative_to(ROOT / 'docs')}-{number}")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    folder = tempfile.mkdtemp(prefix="muster-")  # short: a socket's path has 107 bytes at most
    launcher = ("MUSTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_", "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    # Whatever clusters of Ray run on this machine, examples begin one of their own.
    variables = {**kept, "MUSTER_SOCKET": f"{folder}/s", "HOME": folder, "RAY_ADDRESS": "local"}
    yield variables
    subprocess.run(["muster", "stop"], env=variables, check=False, capture_output=True, timeout=PATIENCE_S)
    shutil.rmtree(folder)


def matches(said: list[str], expected: list[str]) -> bool:
    """Whether the lines are as expected; ``...`` stands for anything in a line."""
    patterns = [re.compile(".*".join(map(re.escape, line.split("..."))), re.DOTALL) for line in expected]
    return len(said) == len(patterns) and all(map(re.Pattern.fullmatch, patterns, said))


@pytest.mark.parametrize("example", list(all_examples()))
def test_an_example_runs_and_prints_what_its_page_says(example: Example, environment: dict[str, str], tmp_path: Path):
    script = tmp_path / "example.py"
    script.write_text(example.code)
    launcher = ["muster", "run", "-n", str(example.ranks), "--"] if example.ranks else []
    printed = output_of([*launcher, sys.executable, str(script)], environment, PATIENCE_S, tmp_path)
    if example.output is not None:
        said, expected = printed.strip().splitlines(), example.output.splitlines()
        if example.ranks:
            said, expected = sorted(said), sorted(expected)
        assert matches(said, expected), f"expected:\n{example.output}\ngot:\n{printed}"


def test_the_messages_of_troubleshooting_are_in_the_code():
    """Compares the parts between the values."""
    folders = [ROOT / folder for folder in ("client", "daemon", "include", "python")]
    sources = [path for folder in folders for kind in ("*.cpp", "*.hpp", "*.py") for path in folder.rglob(kind)]
    code = "".join(path.read_text() for path in sources)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # one literal in several lines
    page = (ROOT / "docs" / "troubleshooting.rst").read_text().partition("\nSlow?\n")[0]
    messages = {message for line in page.splitlines() if line.startswith("``") for message in line.split("``")[1::2]}
    messages -= {"assignment destination is read-only", "output array is read-only"}  # NumPy says these
    messages -= {"unhashable type: 'numpy.ndarray'", "Object of type ndarray is not JSON serializable"}  # and Python
    parts = {part for message in messages for part in message.split("...")}
    assert len(parts) > 50
    assert {part for part in parts if part not in code} == set()


def test_all_pages_have_been_read():
    """If the pattern above did not match a directive, its example would never run."""
    for page in (ROOT / "docs").rglob("*.rst"):
        text = page.read_text()
        assert text.count("code-block:: python") == sum(found[1] == "python" for found in DIRECTIVE.finditer(text)), (
            page
        )
