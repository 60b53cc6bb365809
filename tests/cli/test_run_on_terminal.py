"""`muster run` on a terminal: rank 0 has one, too, and other ranks don't tear what it draws there."""

import os
import re
import signal
import subprocess
import sys

import pytest
from cli_harness import PATIENCE_S

DESCRIBE = """
import os, sys
for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
    size = "{0.columns}x{0.lines}".format(os.get_terminal_size(stream.fileno())) if stream.isatty() else "none"
    print(name, size, file=stream)
"""


@pytest.fixture(autouse=True)
def plain(muster):
    muster.env |= {"TERM": "xterm", "NO_COLOR": "1"}


def lines_on_screen(shown):
    """Returns the lines that a screen shows in the end: erased lines were drawn again."""
    return [line for line in re.sub(r"[^\n]*\r\x1b\[K", "", shown).split("\r\n") if line]


def start(muster, terminal, ranks, program, *words, **streams):
    command = ("run", "-n", str(ranks), "--", sys.executable, "-c", program, *words)
    process = muster.start_on(terminal, *command, **streams)
    terminal.let_go()
    return process


def test_rank_0_has_a_terminal_as_large_as_ours_and_the_others_have_none(muster, terminal):
    process = start(muster, terminal, 3, DESCRIBE)
    lines = sorted(lines_on_screen(terminal.read_all()))
    expected = ["[1] err none", "[1] out none", "[2] err none", "[2] out none", "err 100x30", "out 100x30"]
    assert lines == expected
    assert process.wait(PATIENCE_S) == 0


def test_without_a_terminal_nobody_has_one(muster, terminal):
    done = muster.run_python(2, DESCRIBE)
    assert sorted(done.stdout.splitlines()) == ["[0] out none", "[1] out none"]
    assert sorted(done.stderr.splitlines()) == ["[0] err none", "[1] err none"]


@pytest.mark.parametrize(("piped", "other"), [("stdout", "err"), ("stderr", "out")])
def test_each_stream_counts_by_itself(muster, terminal, piped, other):
    process = start(muster, terminal, 1, DESCRIBE, **{piped: subprocess.PIPE})
    assert terminal.read_all() == f"{other} 100x30\r\n"
    assert getattr(process, piped).read() == f"[0] {piped[3:]} none\n"
    assert process.wait(PATIENCE_S) == 0


def test_output_and_errors_of_rank_0_keep_their_order(muster, terminal):
    process = start(muster, terminal, 1, "import os\nfor i in range(3000): os.write(1 + i % 2, b'%d\\n' % i)")
    assert terminal.read_all() == "".join(f"{i}\r\n" for i in range(3000))
    assert process.wait(PATIENCE_S) == 0


def test_a_progress_bar_arrives_as_it_is_drawn(muster, terminal):
    program = """
import sys
for i in range(500):
    print(f"\\r{i} of 499", end="", flush=True)
print("\\rdone     ")
"""
    process = start(muster, terminal, 2, f"import os\nif os.environ['MUSTER_RANK'] == '0':\n    exec({program!r})")
    assert terminal.read_all() == "".join(f"\r{i} of 499" for i in range(500)) + "\rdone     \r\n"
    assert process.wait(PATIENCE_S) == 0


# Rank 0 begins a line, rank 1 writes when the test opens its gate, and rank 0 goes on when the test opens rank 0's
# gate.
TWO_WRITERS = """
import os, sys
mine = sys.argv[1 + int(os.environ["MUSTER_RANK"])]
if os.environ["MUSTER_RANK"] == "0":
    print("[##..]", end="", flush=True)
open(mine).close()
if os.environ["MUSTER_RANK"] == "0":
    print("\\r[####]")
else:
    print("hello")
"""


@pytest.mark.parametrize(("kind", "between"), [("xterm", "\r\x1b[K[1] hello\r\n[##..]"), ("dumb", "\r\n[1] hello\r\n")])
def test_a_line_of_another_rank_does_not_tear_a_bar(muster, terminal, kind, between):
    muster.env["TERM"] = kind
    gates = [str(muster.folder / name) for name in ("zero", "one")]
    for gate in gates:
        os.mkfifo(gate)
    process = start(muster, terminal, 2, TWO_WRITERS, *gates)
    shown = terminal.read_until("[##..]")
    os.close(os.open(gates[1], os.O_WRONLY))
    shown += terminal.read_until("hello\r\n" if kind == "dumb" else "hello\r\n[##..]")
    os.close(os.open(gates[0], os.O_WRONLY))
    shown += terminal.read_all()
    assert shown == "[##..]" + between + "\r[####]\r\n"
    assert process.wait(PATIENCE_S) == 0


def test_a_line_without_its_end_is_ended(muster, terminal):
    process = start(muster, terminal, 1, "print('no newline', end='')")
    assert terminal.read_all() == "no newline\r\n"
    assert process.wait(PATIENCE_S) == 0


def read_until_both_are_ready(terminal):
    shown = ""
    while sorted(lines_on_screen(shown)) != ["[1] ready", "ready"]:
        shown += terminal.read()
    return shown


RESIZED = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
print("ready", flush=True)
signal.sigwait({signal.SIGWINCH})
if os.environ["MUSTER_RANK"] == "0":
    print("{0.columns}x{0.lines}".format(os.get_terminal_size()))
else:
    print("told")
"""


def test_a_new_size_reaches_rank_0_and_all_are_told(muster, terminal):
    process = start(muster, terminal, 2, RESIZED)
    shown = read_until_both_are_ready(terminal)
    terminal.resize(70, 20)
    shown += terminal.read_all()
    assert sorted(lines_on_screen(shown)) == ["70x20", "[1] ready", "[1] told", "ready"]
    assert process.wait(PATIENCE_S) == 0


def test_a_size_that_changed_while_stopped_is_seen_afterwards(muster, terminal):
    process = start(muster, terminal, 2, RESIZED)
    shown = read_until_both_are_ready(terminal)
    process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    terminal.resize(70, 20)
    process.send_signal(signal.SIGCONT)
    shown += terminal.read_all()
    assert sorted(lines_on_screen(shown)) == ["70x20", "[1] ready", "[1] told", "ready"]
    assert process.wait(PATIENCE_S) == 0


def test_ctrl_c_reaches_every_rank_once(muster, terminal):
    program = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("ready", flush=True)
signal.sigwait({signal.SIGINT})
print("got", signal.sigpending())
"""
    process = start(muster, terminal, 2, program)
    shown = read_until_both_are_ready(terminal)
    terminal.press("\x03")
    shown += terminal.read_all().replace("^C", "")
    assert sorted(lines_on_screen(shown)) == ["[1] got set()", "[1] ready", "got set()", "ready"]
    assert process.wait(PATIENCE_S) == 0


def test_all_of_a_large_output_arrives(muster, terminal):
    program = "import os, sys\nfor i in range(16384): sys.stdout.write(f'{i:063d}\\n')"
    process = start(muster, terminal, 1, program)
    assert terminal.read_all() == "".join(f"{i:063d}\r\n" for i in range(16384))
    assert process.wait(PATIENCE_S) == 0


def test_a_process_that_keeps_the_terminal_open_is_not_waited_for(muster, terminal):
    gate = str(muster.folder / "gate")
    os.mkfifo(gate)
    # It is in a session of its own, so that it doesn't end with its rank.
    program = f"import subprocess; subprocess.Popen(['cat', {gate!r}], start_new_session=True); print('x' * 100_000)"
    process = start(muster, terminal, 1, program)
    assert terminal.read_all() == "x" * 100_000 + "\r\n"
    assert process.wait(PATIENCE_S) == 0
    os.close(os.open(gate, os.O_WRONLY))


def test_a_failure_of_rank_0_is_quoted_without_its_colours(muster, terminal):
    program = "import sys; print('\\x1b[31mValueError\\x1b[0m: boom', file=sys.stderr); sys.exit(7)"
    process = start(muster, terminal, 1, program)
    shown = terminal.read_all()
    assert shown.startswith("\x1b[31mValueError\x1b[0m: boom\r\nmuster run: rank 0 ")
    assert "last words: ValueError: boom\r\n" in shown
    assert "on the lines without a [rank]" in shown
    assert process.wait(PATIENCE_S) == 7


def test_the_ranks_terminal_can_not_be_read_from(muster, terminal):
    program = "import os\ntry: os.read(1, 1)\nexcept OSError as error: print(os.strerror(error.errno))"
    process = start(muster, terminal, 1, program)
    assert terminal.read_all() == "Bad file descriptor\r\n"
    assert process.wait(PATIENCE_S) == 0


def test_a_terminal_that_is_gone_ends_the_ranks(muster, terminal):
    process = start(muster, terminal, 2, "while True: print('y', flush=True)")
    terminal.read_until("y")
    terminal.hang_up()
    assert process.wait(PATIENCE_S) != 0
