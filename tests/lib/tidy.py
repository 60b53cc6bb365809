"""Runs clang-tidy over the units of a build, several at a time. Skips units that passed and have not changed since.

A unit has changed if its command, the configuration or a file of ours that it includes has changed. With --since it
checks each file that has changed since that commit once: sources as their own units, and a header in one of the units
that include it. What a changed header does to all the others is for the run without --since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("include", "client", "daemon", "python")
# One unit there becomes a hundred once its macros are expanded for every instruction set. Its logic is in headers that
# the other units include.
SKIPPED = ("daemon/collective/kernels",)


def units(build: Path) -> list[dict]:
    """Returns the commands of our own units, without tests."""

    def wanted(path: Path) -> bool:
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        return name.startswith(tuple(f"{f}/" for f in FOLDERS)) and not name.startswith(SKIPPED)

    commands = json.loads((build / "compile_commands.json").read_text())
    return [unit for unit in commands if wanted(Path(unit["file"]))]


def dependencies(build: Path) -> dict[Path, list[Path]]:
    """Returns our own files that each object of the build was made from, according to ninja."""
    text = subprocess.run(["ninja", "-C", build, "-t", "deps"], check=True, capture_output=True, text=True).stdout
    found: dict[Path, list[Path]] = {}
    for block in text.split("\n\n"):
        first, *lines = block.splitlines() or [""]
        paths = ((build / line.strip()).resolve() for line in lines)
        found[build / first.split(":")[0]] = [path for path in paths if path.is_relative_to(ROOT)]
    return found


def changed_since(commit: str) -> set[Path]:
    """Returns the files that differ from the commit, including files that git does not track yet."""
    names: list[str] = []
    for command in (["diff", "--name-only", commit], ["ls-files", "--others", "--exclude-standard"]):
        result = subprocess.run(["git", "-C", ROOT, *command], check=True, capture_output=True, text=True)
        names += result.stdout.splitlines()
    return {ROOT / name for name in names}


def covering(found: list[tuple[dict, list[Path]]], changed: set[Path]) -> list[tuple[dict, list[Path]]]:
    """Returns units that cover all changed files: their own ones, and for each other header the unit of its name."""
    chosen = [(unit, files) for unit, files in found if Path(unit["file"]) in changed]
    left = changed.difference(*(files for _, files in chosen))
    for header in sorted(left):
        including = [(unit, files) for unit, files in found if header in files]
        if any(header in files for _, files in chosen) or not including:
            continue
        chosen.append(min(including, key=lambda one: (Path(one[0]["file"]).stem != header.stem, len(one[1]))))
    return chosen


def fingerprint(unit: dict, files: list[Path]) -> str:
    digest = hashlib.sha256(unit["command"].encode())
    for path in [ROOT / ".clang-tidy", *sorted(files)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check(unit: dict, build: Path, stamp: Path) -> str:
    """Returns clang-tidy's complaints; empty if there are none."""
    # The build's compiler has warnings that clang lacks.
    command = ["clang-tidy", "--quiet", "-p", build, "--extra-arg=-Wno-unknown-warning-option", unit["file"]]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode == 0:
        stamp.touch()
        return ""
    return result.stdout or result.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True, help="a build folder with compile_commands.json")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--since", help="a commit: check only what changed since")
    options = parser.parse_args()
    build = options.build.resolve()
    stamps = build / "tidy"
    stamps.mkdir(exist_ok=True)
    made_of = dependencies(build)
    changed = changed_since(options.since) if options.since else None
    if changed and ROOT / ".clang-tidy" in changed:
        changed = None
    found = [(unit, made_of.get(build / unit["output"], [Path(unit["file"])])) for unit in units(build)]
    if changed is not None:
        found = covering(found, changed)
    stamped = [(unit, stamps / fingerprint(unit, files)) for unit, files in found]
    stale = [(unit, stamp) for unit, stamp in stamped if not stamp.exists()]
    with ThreadPoolExecutor(options.jobs) as pool:
        complaints = [c for c in pool.map(lambda job: check(job[0], build, job[1]), stale) if c]
    print("\n".join(complaints) + f"clang-tidy: {len(stale)} units checked, {len(complaints)} with complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
