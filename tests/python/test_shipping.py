"""Decorated functions go to other processes: by name with pickle, by value with cloudpickle."""

from __future__ import annotations

import asyncio
import functools
import pickle
import subprocess
import sys
import textwrap

import cloudpickle
import joblib
import muster
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("muster")


@muster.collective_input
def ramp(n: int, start: float = 0.0):
    return np.arange(n) + start


@muster.collective_input
async def slow_ramp(n: int):
    await asyncio.sleep(0)
    return np.arange(n)


class Model:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    @muster.collective_input
    def gradient(self, n: int):
        return {"w": np.full(n, self.scale)}

    @classmethod
    @muster.collective_input
    def ones(cls, n: int):
        return np.ones(n)

    @staticmethod
    @muster.collective_input
    def zeros(n: int):
        return np.zeros(n)


# Each test looks these up: cloudpickle changes a class that it loads by value where the class is known.
SHIPPED = {
    "function": (lambda: ramp, lambda f: f(4), np.arange(4.0)),
    "partial": (lambda: functools.partial(ramp, start=2.0), lambda f: f(3), np.arange(3) + 2.0),
    "coroutine": (lambda: slow_ramp, lambda f: asyncio.run(f(3)), np.arange(3)),
    "bound method": (lambda: Model(3.0).gradient, lambda f: f(2), {"w": np.full(2, 3.0)}),
    "class": (lambda: Model, lambda f: f(5.0).gradient(2), {"w": np.full(2, 5.0)}),
    "class method": (lambda: Model.ones, lambda f: f(2), np.ones(2)),
    "static method": (lambda: Model.zeros, lambda f: f(2), np.zeros(2)),
}


def with_pickle(value):
    return pickle.loads(pickle.dumps(value))


def with_cloudpickle(value):
    return pickle.loads(cloudpickle.dumps(value))


def by_value(value):
    """Pickles as if this module were a notebook that the other side can't import."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        return pickle.loads(cloudpickle.dumps(value))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.parametrize("ship", [with_pickle, with_cloudpickle, by_value])
@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_decorated_can_be_pickled(name, ship):
    find, call, expected = SHIPPED[name]
    ref = call(ship(find()))
    assert ref.copies == 0
    np.testing.assert_equal(ref.get(), expected)


def test_what_a_script_defines_runs_in_loky_workers():
    """They are sent by value, even if they are defined in a function."""
    script = """
        import functools

        import joblib
        import numpy as np

        import muster

        @muster.collective_input
        def square(i):
            return {"x": np.full(1000, float(i * i))}

        class Job:
            def __init__(self, shift):
                self.shift = shift

            @muster.collective_input
            def run(self, i):
                return np.full(10, float(i + self.shift))

        def main():
            @muster.collective_input
            def inner(i, by):
                return np.full(10, float(i * by))

            run = joblib.Parallel(n_jobs=2, backend="loky")
            refs = run(joblib.delayed(square)(i) for i in range(6))
            assert [float(ref.get()["x"][0]) for ref in refs] == [0, 1, 4, 9, 16, 25]
            assert all(ref.copies == 0 for ref in refs)
            total = muster.allreduce_refs(refs).result(timeout=20)
            assert float(total["x"][0]) == 55
            refs = run(joblib.delayed(Job(7).run)(i) for i in range(3))
            assert [float(ref.get()[0]) for ref in refs] == [7, 8, 9]
            refs = run(joblib.delayed(functools.partial(inner, by=3))(i) for i in range(3))
            assert [float(ref.get()[0]) for ref in refs] == [0, 3, 6]

        main()
        print("shipped")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["shipped"]


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib_runs_decorated_functions_of_a_module(backend):
    refs = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(ramp)(3, float(i)) for i in range(4))
    np.testing.assert_array_equal(muster.allreduce_refs(refs).result(timeout=20), 4 * np.arange(3.0) + 6)
