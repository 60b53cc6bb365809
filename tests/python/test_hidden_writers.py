"""Writers that no reference count of an array shows: buffers, other libraries' views, stand-ins."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

KEPT: list = []


class Interface:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


class Buffer(np.ndarray):
    pass


def made() -> np.ndarray:
    array = np.ones(64)
    KEPT.append(array)
    return array


def by_address() -> np.ndarray:
    array = made()
    return np.ctypeslib.as_array((ctypes.c_double * 64).from_address(array.ctypes.data))


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda: np.asarray(memoryview(made())), id="memoryview"),
        pytest.param(lambda: np.frombuffer(memoryview(made())), id="frombuffer of a memoryview"),
        pytest.param(lambda: np.frombuffer(made()), id="frombuffer"),
        pytest.param(lambda: as_strided(made()), id="as_strided"),
        pytest.param(lambda: np.from_dlpack(made()), id="DLPack"),
        pytest.param(lambda: np.ndarray(64, buffer=made()), id="ndarray over a buffer"),
        pytest.param(lambda: np.asarray(Interface(made())), id="__array_interface__"),
        pytest.param(lambda: np.ctypeslib.as_array(np.ctypeslib.as_ctypes(made())), id="ctypes"),
        pytest.param(by_address, id="ctypes by address"),
        pytest.param(lambda: made().view(Buffer).view(np.ndarray), id="view of a subclass"),
        pytest.param(lambda: np.asarray(memoryview(made()).cast("B").cast("d")), id="memoryview, cast"),
        pytest.param(lambda: np.lib.stride_tricks.sliding_window_view(made(), 64)[0], id="sliding window"),
        pytest.param(lambda: np.nditer(made(), op_flags=["readwrite"]).operands[0], id="nditer"),
        pytest.param(lambda: np.broadcast_to(made(), (1, 64))[0], id="broadcast_to"),
        pytest.param(lambda: made().flat.base, id="flat"),
        pytest.param(lambda: made().real, id="real"),
    ],
)
def test_a_writer_that_is_not_seen_gets_no_hold_of_the_store(muster, function):
    KEPT.clear()
    ref = muster.collective_input(function)()
    assert ref.copies == 1
    KEPT[0][:] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def test_an_iterator_over_the_array_is_a_writer(muster):
    kept = []

    @muster.collective_input
    def make():
        array = np.ones(64)
        kept.append(array.flat)
        return array

    ref = make()
    assert ref.copies == 1
    kept[0][:] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def test_a_buffer_of_the_array_is_a_writer(muster):
    kept = []

    @muster.collective_input
    def make():
        array = np.ones(64)
        kept.append(memoryview(array))
        return array

    ref = make()
    assert ref.copies == 1
    kept[0][0] = 99
    np.testing.assert_array_equal(ref.get(), np.ones(64))


def test_a_suspended_frame_is_a_writer(muster):
    """A generator that still runs has the array as its local."""
    kept = []

    def rows():
        array = np.ones(64)
        yield array
        array[:] = 99

    @muster.collective_input
    def make():
        generator = rows()
        kept.append(generator)
        return next(generator)

    ref = make()
    assert ref.copies == 1
    assert next(kept[0], None) is None
    np.testing.assert_array_equal(ref.get(), np.ones(64))
