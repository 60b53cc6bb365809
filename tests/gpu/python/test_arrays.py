"""Python programs with arrays on GPUs, over a real daemon and its workers."""

from pathlib import Path

import cases
import pytest
from machines import leave_out_without


@pytest.mark.parametrize("name", [case.__name__ for case in cases.CASES])
def test_program(run_program, gpus, name):
    leave_out_without(gpus, "cuda:1" if name in cases.NEED_TWO_GPUS else "")
    run_program(Path(cases.__file__), name)
