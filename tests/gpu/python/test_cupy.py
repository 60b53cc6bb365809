"""CuPy allocates inside the store in decorated calls: CuPy itself on real GPUs, here a stand-in."""

import pytest
from machines import HERE, leave_out_without, library_for_gpus, programs_in

NEEDS = "cupy.cuda"
PROGRAMS = programs_in("cupy_programs.py")


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(run_program, gpus, name):
    leave_out_without(gpus, PROGRAMS[name])
    run_program(HERE / "cupy_programs.py", name, **library_for_gpus())
