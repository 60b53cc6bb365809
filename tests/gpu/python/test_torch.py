"""PyTorch allocates inside the store in decorated calls: PyTorch itself on real GPUs, here a stand-in."""

import pytest
from machines import HERE, leave_out_without, library_for_gpus, programs_in

NEEDS = "torch.cuda"
PROGRAMS = programs_in("torch_programs.py")


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(run_program, gpus, own_daemon, name):
    leave_out_without(gpus, PROGRAMS[name])
    run_program(HERE / "torch_programs.py", name, **library_for_gpus(), **own_daemon(PROGRAMS[name]))
