"""Reads the includes of all C++ sources and compares them with the table of daemon/ARCHITECTURE.md.

The layers hold only if nobody adds a convenient include. So the table is checked, not just written down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE_FOLDERS = ("include", "client", "daemon", "python")
# Where the build looks for a header, in addition to the folder of the file that includes it.
INCLUDE_ROOTS = ("include", "daemon", "client", "client/cli", "python/src", ".")
GENERATED = {"muster/ipc/wire_generated.h": "include/muster/ipc"}

_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
_ROW = re.compile(r"^\|([^|]+)\|([^|]*)\|\s*$")

Table = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Include:
    source: Path  # relative to the checkout
    line: int
    header: str
    quoted: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} includes {self.header}"


def read_table(text: str) -> Table:
    """Reads the rows below the header `| folder | may include |` into folder -> folders that it may include."""
    lines = iter(text.splitlines())
    for line in lines:
        if [cell.strip() for cell in line.strip().strip("|").split("|")] == ["folder", "may include"]:
            break
    else:
        raise ValueError("no table `| folder | may include |` found")
    next(lines)  # skips the rule below the header
    table: Table = {}
    for line in lines:
        row = _ROW.match(line)
        if row is None:
            break
        allowed = (name.strip(" `") for name in row[2].split(","))
        table[row[1].strip(" `")] = frozenset(name for name in allowed if name)
    if unknown := set().union(*table.values()) - set(table):
        raise ValueError(f"the table allows folders that have no row of their own: {sorted(unknown)}")
    return table


def read_includes(root: Path) -> Iterator[Include]:
    for folder in SOURCE_FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in {".hpp", ".cpp", ".h", ".cu", ".cuh"}:
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if match := _INCLUDE.match(line):
                    yield Include(path.relative_to(root), number, match[2], quoted=match[1] == '"')


def folder_of(path: Path, table: Table) -> str | None:
    """Returns the deepest folder of the table that contains the path."""
    return next((str(parent) for parent in path.parents if str(parent) in table), None)


def resolve(include: Include, root: Path) -> Path | None:
    """Returns the header's path in the checkout; None for a header that is not ours."""
    if include.header in GENERATED:
        return Path(GENERATED[include.header]) / "generated.h"
    folders = [str(include.source.parent)] if include.quoted else []
    for folder in [*folders, *INCLUDE_ROOTS]:
        path = (root / folder / include.header).resolve()
        if path.is_file() and path.is_relative_to(root.resolve()):
            return path.relative_to(root.resolve())
    return None


def wrong_arrows(root: Path, table: Table) -> list[str]:
    """Returns one line for each include that the table does not allow."""
    wrong = []
    for include in read_includes(root):
        source = folder_of(include.source, table)
        if source is None:
            wrong.append(f"{include}: no row of the table holds {include.source.parent}")
            continue
        path = resolve(include, root)
        if path is None:
            if include.quoted:
                wrong.append(f"{include}: no such file (write <...> for a header that is not Muster's)")
            continue
        target = folder_of(path, table)
        if target is None:
            wrong.append(f"{include}: no row of the table holds {path.parent}")
        elif target != source and target not in table[source]:
            wrong.append(f"{include}: {source} may not include {target}")
    return wrong


def reached_from(sources: Iterable[Path], root: Path) -> list[Include]:
    """Returns the includes of these sources, and of every header of ours that they include directly or indirectly."""
    includes: dict[Path, list[Include]] = {}
    for include in read_includes(root):
        includes.setdefault(include.source, []).append(include)
    found: list[Include] = []
    left, seen = list(sources), set()
    while left:
        source = left.pop()
        if source in seen:
            continue
        seen.add(source)
        for include in includes.get(source, []):
            found.append(include)
            if (path := resolve(include, root)) is not None:
                left.append(path)
    return found


def sources_of_target(cmake: Path, target: str) -> list[Path]:
    """Returns the sources that `add_library(target STATIC ...)` lists in that CMakeLists.txt."""
    match = re.search(rf"add_library\({target} STATIC\s+([^)]+)\)", cmake.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"{cmake} makes no static library {target}")
    return [cmake.parent / name for name in match[1].split()]
