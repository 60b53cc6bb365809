"""Texts: how refs, works and groups describe themselves, and what errors say."""

from __future__ import annotations

import operator
import os
import pickle
import pydoc
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from muster._words import a

from daemon import Daemon, run_ranks

USES = {
    "+": lambda it: it + 1,
    "reflected *": lambda it: 0.1 * it,
    "-=": lambda it: operator.isub(it, 1),
    ">": lambda it: it > 0.5,
    "reflected >": lambda it: 0.5 > it,  # noqa: SIM300
    "negative": lambda it: -it,
    "index": lambda it: it[0],
    "key": lambda it: it["w"],
    "store": lambda it: operator.setitem(it, 0, 1),
    "in": lambda it: 1 in it,
    "for": list,
    "float": float,
    "int": int,
    "len": len,
    "itself": lambda it: it * it,
    "tensor": lambda it: it + torch.ones(2),
}


def test_a_work_says_what_it_is_and_what_became_of_it(muster):
    with muster.group("says", rank=0, world_size=1) as group:
        done = group.reduce(np.ones(3), root=0, key="loss")
        done.result(timeout=10)
        assert repr(done) == "<muster.Work: reduce to 0 'loss' in 'says', done>"
        assert repr(group.broadcast(1)).startswith("<muster.Work: broadcast from 0 in 'says', ")
        failed = group.allreduce(np.ones(3), op="band")
        assert failed.exception(timeout=10) is not None
        assert repr(failed) == "<muster.Work: allreduce in 'says', Invalid>"
        for use in (np.asarray, list, lambda work: work[0], lambda work: work["w"]):
            with pytest.raises(muster.Invalid, match="reduce to 0") as error:
                use(done)
            assert "work.result()" in error.value.hint
    pending = muster.group("says, too", rank=0, world_size=2).barrier()
    assert repr(pending) == "<muster.Work: barrier in 'says, too', pending>"
    assert repr(muster.allreduce_refs([muster.put(1)])).startswith("<muster.Work: allreduce of refs, ")


@pytest.mark.parametrize("use", USES)
def test_what_stands_for_a_value_says_how_to_get_it(muster, use):
    ref = muster.put(np.ones(2))
    for it, call in ((ref, "ref.get()"), (muster.allreduce_refs([ref]), "work.result()")):
        with pytest.raises(muster.Invalid, match=r"is a (Ref|Work), not its value") as error:
            USES[use](it)
        assert call in error.value.hint


@pytest.mark.parametrize(
    "use", [bool, lambda work: not work, lambda work: np.ones(2) - work, lambda work: work > np.ones(2)]
)
def test_a_work_is_neither_true_nor_an_array(muster, use):
    with pytest.raises(muster.Invalid, match=r"work\.result\(\)"):
        use(muster.allreduce_refs([muster.put(np.zeros(2))]))


def test_an_attribute_of_an_array_is_looked_for_in_vain(muster):
    ref = muster.put(np.ones(2))
    work = muster.allreduce_refs([ref])
    for name in ("shape", "mean", "dtype", "w"):
        assert not hasattr(work, name)
        with pytest.raises(AttributeError, match=rf"{name}.*work\.result\(\)"):
            getattr(work, name)
    for name in ("result", "mean", "w"):
        assert not hasattr(ref, name)
        with pytest.raises(AttributeError, match=rf"{name}.*ref\.get\(\)"):
            getattr(ref, name)
    assert len({work, ref, work}) == 2
    assert work == work
    assert work != muster.allreduce_refs([ref])


def test_a_ref_is_an_array_to_numpy(muster):
    ref = muster.put(np.full(2, 3.0))
    ones = np.ones(2)
    for found, expected in [
        (ones + ref, [4, 4]),
        (ref - ones, [2, 2]),
        (np.float64(2) * ref, [6, 6]),
        (ref / np.float32(2), [1.5, 1.5]),
        (ref > ones, [True, True]),
        (np.add(ref, ref), [6, 6]),
        (np.asarray(ref), [3, 3]),
        (np.stack([ref, ref])[1], [3, 3]),
    ]:
        assert found.tolist() == expected
    assert torch.as_tensor(ref).tolist() == [3, 3]
    assert ref  # it exists, whatever its value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("int", "an int"),
        ("ndarray", "an ndarray"),
        ("object", "an object"),
        ("NoneType", "a NoneType"),
        ("ufunc", "a ufunc"),
    ],
)
def test_a_name_has_its_article(name, said):
    assert a(name) == said


def test_what_belongs_to_its_process_says_so_when_it_is_pickled(muster):
    group = muster.group("pickled", rank=0, world_size=1)
    for dumps in (pickle.dumps, muster.put):
        with pytest.raises(muster.Invalid, match="Group can't be pickled: it belongs to its process") as error:
            dumps(group)
        assert error.value.hint == "call muster.group() in each process"
    with pytest.raises(muster.Invalid, match="Work can't be pickled") as error:
        pickle.dumps(group.barrier())
    assert ".result() or .ref" in error.value.hint
    group.leave()


def test_a_taken_seat_says_whose_it_is(muster):
    with muster.group("taken", rank=0, world_size=2):
        with pytest.raises(muster.Invalid, match="this one, which joined before"):
            muster.group("taken", rank=0, world_size=2)
        code = "import muster\ntry: muster.group('taken', rank=0, world_size=2)\nexcept muster.Invalid as e: print(e)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert f"held by a live process: pid {os.getpid()}" in done.stdout


@pytest.mark.parametrize("name", ["Work", "Ref", "Group"])
def test_help_shows_what_users_call_and_no_more(muster, name):
    kind = getattr(muster, name)
    text = pydoc.render_doc(kind, renderer=pydoc.plaintext)
    assert f"class {name}" in text
    assert "__" not in text
    assert "_muster." not in text
    assert f"{name}(" not in text.partition("Method")[0].replace(f"class {name}(", "")
    for member in (member for member in vars(kind) if not member.startswith("_")):
        assert f" {member}" in text
    assert dir(kind)


def test_what_can_be_called_on_an_object_is_listed(muster):
    listed = dir(muster.put(1))
    assert "get" in listed
    assert "__reduce__" in listed


def test_what_is_no_text_is_shown(muster):
    with pytest.raises(muster.Invalid, match=r"the group's name 'a\\x0ab' is not valid text"):
        muster.group("a\nb", rank=0, world_size=1)
    group = muster.group("texts", rank=0, world_size=1)
    with pytest.raises(muster.Invalid, match=r"the op's key 'k\\x1b' is not valid text"):
        group.barrier(key="k\x1b").result()
    group.leave()


def test_a_dtype_that_an_op_has_no_meaning_for_is_told_with_its_place(muster):
    with muster.group("meanings", rank=0, world_size=1) as group:
        with pytest.raises(
            muster.Invalid, match=r"an array at layer\.b of dtype complex128, for which max has no"
        ) as error:
            group.allreduce({"layer": {"a": np.ones(2), "b": np.ones(2) * 1j}}, op="max").result()
        assert "x.real and x.imag" in error.value.hint
        with pytest.raises(muster.Invalid, match="an array of dtype float64, for which band has no meaning"):
            group.allreduce(np.ones(2), op="band").result()


def test_a_ref_of_an_older_daemon_says_so():
    older, newer = Daemon(), Daemon()
    (token,) = run_ranks(older, _pickled, 1)
    older.stop()
    (message,) = run_ranks(newer, _loaded, 1, token.replace(older.socket.encode(), newer.socket.encode()))
    newer.stop()
    assert "another run of the daemon: an older one" in message
    assert not re.search(r"\d{6}", message)


def _pickled(_rank):
    import muster

    return pickle.dumps(muster.put(np.ones(3)))


def _loaded(_rank, token):
    import muster

    with pytest.raises(muster.DaemonRestarted) as error:
        pickle.loads(token).get()
    return str(error.value)
