"""Checks that check_image.py finds what is wrong with kernels, in words of cuobjdump as it prints them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

USAGE = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function muster_fold_few_sum_f32:
  REG:{registers} STACK:{stack} SHARED:{shared} LOCAL:0 CONSTANT[0]:456 TEXTURE:0 SURFACE:0 SAMPLER:0
"""

CODE = """
\t\tFunction : muster_fold_few_sum_f32
        /*0140*/               @P3 LDG.E.128 R4, [R36.64] ;
        /*0150*/                   FADD R4, R4, R8 ;
        /*05a0*/               @P4 STG.E.128 [R42.64], R36 ;
"""


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_image", Path(__file__).with_name("check_image.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def complaints(
    check: ModuleType,
    code: str = CODE,
    names: tuple[str, ...] = ("muster_fold_few_sum_f32",),
    usage: dict[str, int] | None = None,
) -> list[str]:
    text = USAGE.format(**{"registers": 56, "stack": 0, "shared": 0, **(usage or {})})
    [(architecture, kernels)] = check.read_kernels(text).items()
    codes = check.read_code(f"arch = sm_80\n{code}")
    found: list[str] = check.complaints(architecture, kernels, codes[architecture], set(names))
    return found


def test_a_good_kernel_is_good(check: ModuleType) -> None:
    assert complaints(check) == []


@pytest.mark.parametrize(
    ("usage", "complaint"),
    [
        ({"stack": 8}, "muster_fold_few_sum_f32 for sm_80 spills: 8 bytes of stack, 0 of local memory"),
        ({"shared": 64}, "muster_fold_few_sum_f32 for sm_80 uses 64 bytes of shared memory"),
        (
            {"registers": 65},
            "muster_fold_few_sum_f32 for sm_80 fits 768 threads with 65 registers, but 1024 are wanted",
        ),
    ],
)
def test_a_kernel_that_needs_too_much(check: ModuleType, usage: dict[str, int], complaint: str) -> None:
    assert complaints(check, usage=usage) == [complaint]


@pytest.mark.parametrize(
    ("was", "now", "complaint"),
    [
        ("LDG.E.128", "LDG.E", "loads no 16 bytes at once"),
        ("FADD", "FFMA", "has 1 fused multiply-adds"),
        ("STG.E.128", "ST.E.128", "has 1 loads and stores that don't know their kind of memory"),
    ],
)
def test_code_that_is_not_as_intended(check: ModuleType, was: str, now: str, complaint: str) -> None:
    assert complaints(check, CODE.replace(was, now)) == [f"muster_fold_few_sum_f32 for sm_80 {complaint}"]


def test_names_must_be_those_of_launches(check: ModuleType) -> None:
    assert complaints(check, names=()) == [
        "muster_fold_few_sum_f32 for sm_80 is in the image, but no launch asks for it"
    ]
    assert complaints(check, names=("muster_fold_few_sum_f32", "muster_copy")) == [
        "muster_copy is not in the image for sm_80"
    ]


def test_occupancy_is_that_of_nvidias_tables(check: ModuleType) -> None:
    def threads(registers: int) -> int:
        found: int = check.Kernel("muster_copy", registers, 0, 0, 0).threads(check.MULTIPROCESSORS["80"])
        return found

    assert [threads(each) for each in (32, 33, 40, 64, 80, 128, 129)] == [2048, 1536, 1536, 1024, 768, 512, 256]
