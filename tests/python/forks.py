"""Calls in a forked child of the test's process."""

from __future__ import annotations

import os
import pickle


def in_child(function):
    """Returns what `function()` returns in the child. Otherwise an assertion fails that says how the child ended."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            answer = (True, function())
        except BaseException as error:
            answer = (False, repr(error))
        with os.fdopen(write_end, "wb") as out:
            pickle.dump(answer, out)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answers:
        told = answers.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}"
    good, value = pickle.loads(told)
    assert good, value
    return value
