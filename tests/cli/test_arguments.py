"""The command line: help, versions, misuse, and messages."""

import re
import subprocess

import pytest
from cli_harness import ROOT, find_muster

COMMANDS = ["start", "stop", "run", "status", "ls", "groups", "doctor", "bench"]


def test_bare_muster_shows_the_way(muster):
    done = muster()
    assert done.returncode == 0
    for word in [*COMMANDS, "muster doctor", "muster run -n 4 -- python train.py"]:
        assert word in done.stdout
    assert done.stdout == muster("--help").stdout


def test_version(muster):
    assert re.fullmatch(r"muster \d+\.\d+\.\d+\n", muster("--version").stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(muster, command):
    done = muster(command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert f"muster {command}" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("bogus",),
        ("start", "--head"),
        ("start", "--memory", "much"),
        ("status", "--nope"),
        ("ls", "--limit", "-1"),
        ("bench",),
        ("bench", "allreduxe"),
        ("bench", "allreduce", "-b", "5Q"),
        ("bench", "allreduce", "-b", "2M", "-e", "1M"),
        ("bench", "allreduce", "-d", "float31"),
        ("bench", "allreduce", "-d", "complex64", "-o", "max"),
        ("bench", "broadcast", "-n", "2", "-r", "2"),
    ],
)
def test_misuse_is_told_with_a_next_step(muster, words):
    done = muster(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "hint: see `muster" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("stauts",), "there is no command 'stauts'; did you mean status?"),
        (("lss",), "there is no command 'lss'; did you mean ls?"),
        (("foo",), "there is no command 'foo'; the commands are start, stop, run, status, ls, groups, doctor, "),
        (("run", "-n", "2", "--gruop", "x", "--", "true"), "there is no option --gruop; did you mean --group?"),
        (("status", "--jsn"), "muster status: there is no option --jsn; did you mean --json?\n"),
        (("start", "--mem=1G"), "there is no option --mem; did you mean --memory?"),
        (("status", "--verbosely"), "muster status: there is no option --verbosely\n"),
        (("bench", "allreduce", "reduce"), "'reduce' is one word too many"),
        (("bench",), "muster bench: it needs a collective, one of: allreduce, reduce, broadcast, allgather, gather, "),
        (("bench", "allreduxe"), "'allreduxe' is none of: allreduce, reduce, broadcast, allgather, gather, scatter, "),
        (("bench", "allreduce", "-o", "max2"), "--op: 'max2' is none of: sum, prod, min, max, mean, band, "),
        (("bench", "allreduce", "-d", "f"), "--datatype: 'f' is none of: bool, int8, int16, int32, int64, uint8, "),
        (("stop", "--timeout", "abc"), "--timeout: 'abc' is not a number from 0 to 86400"),
        (("run", "-n", "two", "true"), "--ranks: 'two' is not a whole number from 1 to 1024"),
        (("ls", "--limit", "-1"), "--limit: '-1' is not a whole number from 0 to 1000000000"),
        (("ls", "--limit"), "--limit needs a value"),
        (("status", "--socket", "a", "--socket", "b"), "--socket takes one value, and can be given once"),
        (("status", "--json=maybe"), "--json takes no value"),
        (("run", "--gruop", "x", "true"), "there is no option --gruop"),
        (("run", "-n", "2", "true", "--", "true"), "'true' stands before --, and the program comes after it"),
        (
            ("-n", "2", "run", "--", "true"),
            "muster: '-n' stands before the command; options come after it: muster run -n 2 -- true\n",
        ),
        (
            ("--socket", "/tmp/x", "status"),
            "'--socket' stands before the command; options come after it: muster status --socket /tmp/x",
        ),
        (("--json", "ls"), "'--json' stands before the command; options come after it: muster ls --json"),
        (("bench", "allredcue"), "barrier; did you mean allreduce?"),
        (("run", "-n", "1025", "true"), "--ranks: '1025' is not a whole number from 1 to 1024"),
    ],
)
def test_what_is_wrong_with_the_words_is_told(muster, words, told):
    done = muster(*words)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize("command", ["status", "ls", "groups"])
def test_without_a_daemon(muster, command):
    done = muster(command)
    assert done.returncode == 3
    assert muster.socket in done.stderr
    assert "muster start" in done.stderr


def test_to_stop_without_a_daemon(muster):
    done = muster("stop")
    assert done.returncode == 3
    assert muster.socket in done.stderr
    assert "there is nothing to stop" in done.stderr
    assert "muster start" not in done.stderr


def test_a_socket_path_that_is_too_long(muster):
    done = muster("status", "--socket", "/tmp/" + "x" * 200)
    assert done.returncode == 1
    assert "the limit is 107 B" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_command_too(muster, command):
    asked = muster("help", command)
    assert asked.returncode == 0
    assert asked.stdout == muster(command, "--help").stdout
    assert command in muster("help").stdout
    assert muster("help", "nothing").returncode == 2


@pytest.mark.parametrize(
    "words", [("status", "--js"), ("start", "--mem", "64M"), ("bench", "allreduce", "--iter", "1")]
)
def test_options_have_no_abbreviations(muster, words):
    done = muster(*words)
    assert done.returncode == 2
    (option,) = (word for word in words if word.startswith("--"))
    assert f"there is no option {option}" in done.stderr


COMPLETED = {
    ("be",): "bench",
    ("run", "--"): "--grace --group --help --keep-going --memory --ranks --socket",
    ("bench", "--variant", ""): "default out first_read",
    ("bench", "-o", "m"): "min max mean",
    ("bench", "--op", "b"): "band bor bxor",
    ("bench", "all"): "allreduce allgather all_to_all",
    ("bench", "--socket", ""): "",
    ("status", "--js"): "--json",
    ("start", "--user"): "--user-memory",
    ("start", "--log-level", ""): "debug info warning error",
    ("start", "--log-format", "j"): "json",
    ("start", "--idle-exit", ""): "",
}


@pytest.mark.parametrize("words", COMPLETED)
def test_the_shell_completes_commands_options_and_values(words):
    script = """
        source deploy/completion/muster
        compopt() { :; }
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _muster; echo "${COMPREPLY[*]}"
    """
    command = ["bash", "-c", script, "bash", find_muster(), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == COMPLETED[words]
