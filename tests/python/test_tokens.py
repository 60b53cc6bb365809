"""Tokens keep objects in the store while something lives that Muster does not know."""

from __future__ import annotations

import pickle

import muster as package
import numpy as np
import pytest

from daemon import SPAWN, ranks, run_ranks


def put_under(token: str) -> bytes:
    """Puts an object under the token and lets go of it; returns a pickle of its ref."""
    ref = package.put(np.arange(4.0))
    pickled = pickle.dumps(ref)
    ref.keep_for(token)
    ref.free()
    return pickled


def test_an_object_stays_under_a_token_and_goes_with_it(muster):
    token = package.open_token("task 1")
    pickled = put_under("task 1")
    assert pickle.loads(pickled).get().tolist() == [0, 1, 2, 3]
    token.end()
    token.end()
    assert repr(token) == "<muster.Token 'task 1', ended>"
    with pytest.raises(package.Invalid, match="no token 'task 1' is open: it has ended"):
        put_under("task 1")


def test_a_token_ends_with_its_block_and_with_its_python_object(muster):
    with package.open_token("t") as token:
        put_under(token.name)
    token = package.open_token("t")
    with pytest.raises(package.Invalid, match="a token 't' is open already"):
        package.open_token("t")
    del token
    with package.open_token("t"):
        pass


def _put_under(rank, token):
    put_under(token)


def _own(rank, pipe):
    token = package.open_token("owned")
    pipe.send(token.name)
    pipe.recv()
    package.end_token("owned")
    with pytest.raises(package.Invalid, match="no token 'owned' is open"):
        token.end()
    pipe.send("ended")
    pipe.recv()


@pytest.mark.parametrize("killed", [False, True])
def test_objects_of_processes_that_ended_stay_until_the_token_or_its_owner_ends(own_daemon, killed):
    here, there = SPAWN.Pipe()
    with ranks(own_daemon, _own, 1, there) as (owners, _):
        assert here.recv() == "owned"
        run_ranks(own_daemon, _put_under, 2, "owned")
        assert [row["holders"] for row in own_daemon.needed()] == [["token 'owned'"]] * 2
        if killed:
            owners[0].kill()
        else:
            here.send("end")
            assert here.recv() == "ended"
        own_daemon.until_nothing_is_needed()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "can't be named ''"),
        ("x" * 300, "can't be named"),
        ("a\nb", r"can't be named 'a\\x0ab'"),
        ("\ud800", "it is not valid text"),
        (7, "a token's name is a str, not an int"),
        (None, "a token's name is a str"),
    ],
)
def test_what_is_no_name(muster, name, says):
    with pytest.raises(package.Invalid, match=says):
        package.open_token(name)


def test_tokens_are_made_by_open_token_only(muster):
    with pytest.raises(package.Invalid, match="tokens come from open_token"):
        package.Token("t")


def test_a_freed_ref_can_t_be_put_under_a_token(muster):
    with package.open_token("t") as token:
        ref = package.put(np.zeros(3))
        ref.free()
        with pytest.raises(package.ObjectLost, match="the ref was freed"):
            ref.keep_for(token.name)
