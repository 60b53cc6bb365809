"""Checks the compiled kernels without a GPU, by what cuobjdump tells of the fatbin.

It prints each kernel's registers, shared memory, stack and occupancy, and fails on a spill, on too many registers, on a
kernel without 16-byte loads, on a fused multiply-add, and on names that differ from those that a launch can ask for.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

BLOCK_THREADS = 256
# Threads of a multiprocessor, at least. 16 bytes times 8 loads times 512 threads are 64 KiB on their way, and HBM needs
# some 16 KiB for each multiprocessor to be busy (bandwidth times latency, by Little's law). Kernels with fewer loads in
# flight get more threads.
THREADS_MIN = {"few": 1024, "many": 512, "scan": 1024, "premultiply": 1024, "copy": 1024}
# Rows of 16 elements take more registers, and so do rows of float64 and int64 that are made of smaller elements.
LONG_ROW = re.compile(r"_([iu]8|bits|bool)$")
WIDE_ROW = re.compile(r"_(mean_[iu](8|16|32)|(sum|prod|mean)_bool)$")
LONG_THREADS_MIN = 768
WIDE_THREADS_MIN = 512


@dataclass(frozen=True)
class Multiprocessor:
    """What limits the threads of one, as the CUDA programming guide's table of compute capabilities has it."""

    threads: int
    blocks: int
    registers: int = 65536


MULTIPROCESSORS = {
    "75": Multiprocessor(1024, 16),
    "80": Multiprocessor(2048, 32),
    "86": Multiprocessor(1536, 16),
    "87": Multiprocessor(1536, 16),
    "88": Multiprocessor(1536, 16),
    "89": Multiprocessor(1536, 24),
    "90": Multiprocessor(2048, 32),
    "100": Multiprocessor(2048, 32),
    "103": Multiprocessor(2048, 32),
    "110": Multiprocessor(1536, 24),
    "120": Multiprocessor(1536, 24),
}


@dataclass(frozen=True)
class Kernel:
    name: str
    registers: int
    stack: int
    shared: int
    local: int

    @property
    def kind(self) -> str:
        return next(kind for kind in THREADS_MIN if f"_{kind}" in self.name)

    def threads(self, multiprocessor: Multiprocessor) -> int:
        """Resident threads: registers go to warps in steps of 256, warps to 4 partitions, and blocks are whole."""
        per_warp = -(-self.registers * 32 // 256) * 256
        warps = multiprocessor.registers // 4 // per_warp * 4
        blocks = min(warps * 32, multiprocessor.threads) // BLOCK_THREADS
        return min(blocks, multiprocessor.blocks) * BLOCK_THREADS

    def wanted_threads(self, multiprocessor: Multiprocessor) -> int:
        wanted = THREADS_MIN[self.kind]
        if LONG_ROW.search(self.name):
            wanted = min(wanted, LONG_THREADS_MIN)
        if WIDE_ROW.search(self.name):
            wanted = min(wanted, WIDE_THREADS_MIN)
        return min(wanted, multiprocessor.threads)


@dataclass
class Code:
    vector_loads: int = 0  # of 16 bytes
    fused: int = 0  # multiplications with an addition, which round once where the host rounds twice
    generic: int = 0  # loads and stores of memory of any kind, which cost more than those of global memory


def read_kernels(text: str) -> dict[str, list[Kernel]]:
    """Reads `cuobjdump --dump-resource-usage` into architecture -> kernels."""
    found: dict[str, list[Kernel]] = defaultdict(list)
    architecture = name = ""
    for line in text.splitlines():
        if match := re.match(r"arch = sm_(\d+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\w+):", line):
            name = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found[architecture].append(Kernel(name, registers, stack, shared, local))
    return found


def read_code(text: str) -> dict[str, dict[str, Code]]:
    """Reads `cuobjdump --dump-sass` into architecture -> kernel -> what counts in its code."""
    found: dict[str, dict[str, Code]] = defaultdict(dict)
    code = Code()
    architecture = ""
    for line in text.splitlines():
        if match := re.match(r"\s*arch = sm_(\d+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function : (\w+)", line):
            code = found[architecture][match[1]] = Code()
        elif re.search(r"\bLDG\.E(\.\w+)*\.128\b", line):
            code.vector_loads += 1
        elif re.search(r"\b[FD]FMA\b", line):
            code.fused += 1
        elif re.search(r"\b(LD|ST)\.E\b", line):
            code.generic += 1
    return found


def complaints(architecture: str, kernels: list[Kernel], codes: dict[str, Code] | None, names: set[str]) -> list[str]:
    """Returns what is wrong with the kernels of an architecture, one line each."""
    multiprocessor = MULTIPROCESSORS.get(architecture)
    if multiprocessor is None:
        return [f"sm_{architecture} is unknown: add its limits to MULTIPROCESSORS"]
    wrong = [f"{name} is not in the image for sm_{architecture}" for name in sorted(names - {k.name for k in kernels})]
    for kernel in kernels:
        where = f"{kernel.name} for sm_{architecture}"
        if kernel.name not in names:
            wrong.append(f"{where} is in the image, but no launch asks for it")
            continue
        if kernel.stack or kernel.local:
            wrong.append(f"{where} spills: {kernel.stack} bytes of stack, {kernel.local} of local memory")
        if kernel.shared:
            wrong.append(f"{where} uses {kernel.shared} bytes of shared memory")
        threads, wanted = kernel.threads(multiprocessor), kernel.wanted_threads(multiprocessor)
        if threads < wanted:
            wrong.append(f"{where} fits {threads} threads with {kernel.registers} registers, but {wanted} are wanted")
        if codes is not None:
            wrong += complaints_about_code(where, kernel, codes.get(kernel.name, Code()))
    return wrong


def complaints_about_code(where: str, kernel: Kernel, code: Code) -> list[str]:
    wrong = []
    if code.vector_loads == 0:
        wrong.append(f"{where} loads no 16 bytes at once")
    if code.fused and "_mean_" not in kernel.name:  # divisions are made of them
        wrong.append(f"{where} has {code.fused} fused multiply-adds")
    if code.generic:
        wrong.append(f"{where} has {code.generic} loads and stores that don't know their kind of memory")
    return wrong


def show(architecture: str, kernels: list[Kernel], codes: dict[str, Code] | None) -> None:
    multiprocessor = MULTIPROCESSORS[architecture]
    print(f"sm_{architecture}: {len(kernels)} kernels, of {multiprocessor.threads} threads of a multiprocessor")
    print(f"{'kernel':36} registers  stack  shared  threads  occupancy  16-byte loads")
    for kernel in sorted(kernels, key=lambda kernel: kernel.name):
        threads = kernel.threads(multiprocessor)
        share = f"{100 * threads // multiprocessor.threads} %"
        loads = codes[kernel.name].vector_loads if codes is not None and kernel.name in codes else "?"
        needs = f"{kernel.registers:9} {kernel.stack:6} {kernel.shared:7}"
        print(f"{kernel.name:36} {needs} {threads:8} {share:>10} {loads:>14}")


def run(*command: str | Path, path: str = "") -> str:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuobjdump", type=Path, required=True)
    parser.add_argument("--nvdisasm", type=Path, help="without it, the machine code is not looked at")
    parser.add_argument("--names", type=Path, required=True, help="the program that prints the names of all kernels")
    parser.add_argument("--architectures", required=True, help="those that the image must have, e.g. 80;90")
    parser.add_argument("fatbin", type=Path)
    arguments = parser.parse_args()

    names = set(run(arguments.names).split())
    kernels = read_kernels(run(arguments.cuobjdump, "--dump-resource-usage", arguments.fatbin))
    all_codes = None
    if arguments.nvdisasm:
        folder = str(arguments.nvdisasm.parent)
        all_codes = read_code(run(arguments.cuobjdump, "--dump-sass", arguments.fatbin, path=folder))
    wrong = []
    expected = arguments.architectures.split(";")
    if sorted(kernels) != sorted(expected):
        wrong.append(f"the image is for {sorted(kernels)}, not for {sorted(expected)}")
    for architecture, found in kernels.items():
        codes = all_codes[architecture] if all_codes is not None else None
        wrong += complaints(architecture, found, codes, names)
        if architecture in MULTIPROCESSORS:
            show(architecture, found, codes)
    if "ptx" not in run(arguments.cuobjdump, "--list-ptx", arguments.fatbin):
        wrong.append("the image has no PTX for architectures that come later")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
