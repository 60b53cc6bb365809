"""The functions by which libraries' allocators get memory of the store, without any of the libraries."""

import pytest
from machines import HERE, IS_REAL, leave_out_without, programs_in

# A real driver fails at nobody's wish.
PROGRAMS = {name: text for name, text in programs_in("allocators.py").items() if not (IS_REAL and "inject(" in text)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(run_program, gpus, own_daemon, name):
    leave_out_without(gpus, PROGRAMS[name])
    run_program(HERE / "allocators.py", name, **own_daemon(PROGRAMS[name]))
