"""`muster run`: environment, output, signals, failures, and that nothing is left behind."""

import os
import re
import signal
import sys

import pytest
from cli_harness import PATIENCE_S, wait_gone

LINUX = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
# A rank that prints its pid and then waits until it is ended.
WAIT = "import os, signal; print('pid', os.getpid(), flush=True); signal.pause()"
# The same with a child in its group; its pid is printed, too.
WAIT_WITH_CHILD = """
import os, signal, subprocess
child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("pid", os.getpid(), flush=True)
print("pid", child.pid, flush=True)
signal.pause()
"""


def read_pids(process, count):
    """Reads `count` pids that ranks print."""
    pids = []
    while len(pids) < count:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        found = re.search(r"pid (\d+)", line)
        if found:
            pids.append(int(found.group(1)))
    return pids


def test_environment_of_each_rank(muster):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP", "SOCKET")
    program = f"import os; print(*(os.environ['MUSTER_' + name] for name in {names}))"
    done = muster.run_python(3, program, "--group", "dp")
    assert done.returncode == 0, done.stderr
    expected = [f"[{rank}] {rank} {rank} 3 dp {muster.socket}" for rank in range(3)]
    assert sorted(done.stdout.splitlines()) == expected


def test_each_rank_finds_what_torchrun_sets(muster):
    muster.env.update(RANK="7", MASTER_ADDR="nowhere", MASTER_PORT="1", TORCHELASTIC_USE_AGENT_STORE="True")
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    program = (
        f"import os; print(*(os.environ[name] for name in {names}), os.environ.get('TORCHELASTIC_USE_AGENT_STORE'))"
    )
    done = muster.run_python(2, program)
    assert done.returncode == 0, done.stderr
    first, second = (line.split() for line in sorted(done.stdout.splitlines()))
    port = first[-2]
    assert int(port) > 1023
    assert first == ["[0]", "0", "0", "2", "2", "127.0.0.1", port, "None"]
    assert second == ["[1]", "1", "1", "2", "2", "127.0.0.1", port, "None"]


def test_two_runs_do_not_share_a_group(muster):
    program = "import os; print(os.environ['MUSTER_GROUP'])"
    assert muster.run_python(1, program).stdout != muster.run_python(1, program).stdout


def test_threads_are_shared_out_unless_the_user_says_otherwise(muster):
    program = "import os; print(os.environ['OMP_NUM_THREADS'])"
    share = max(1, len(os.sched_getaffinity(0)) // 3)
    assert sorted(muster.run_python(3, program).stdout.splitlines()) == [f"[{rank}] {share}" for rank in range(3)]
    muster.env["OMP_NUM_THREADS"] = "17"
    assert muster.run_python(1, program).stdout == "[0] 17\n"


def test_output_and_errors_go_their_own_ways(muster):
    done = muster.run_python(2, "import sys; print('out'); print('err', file=sys.stderr)")
    assert sorted(done.stdout.splitlines()) == ["[0] out", "[1] out"]
    assert sorted(done.stderr.splitlines()) == ["[0] err", "[1] err"]


def test_lines_of_several_ranks_never_mix_inside(muster):
    # Written in odd pieces, each by its own system call; most lines are longer than a pipe takes at once.
    program = """
import os
rank = os.environ["MUSTER_RANK"]
text = "".join(f"<{rank * (i * 37 % 9000)}>\\n" for i in range(200)).encode()
for at in range(0, len(text), 4999):
    os.write(1, text[at:at + 4999])
"""
    done = muster.run_python(4, program)
    lines = done.stdout.splitlines()
    assert len(lines) == 800
    for rank in range(4):
        own = [line for line in lines if line.startswith(f"[{rank}] ")]
        assert own == [f"[{rank}] <{str(rank) * (i * 37 % 9000)}>" for i in range(200)]


def test_partial_last_line_is_shown(muster):
    assert muster.run_python(1, "print('no newline', end='')").stdout == "[0] no newline\n"


def test_very_long_line_is_continued_on_the_next(muster):
    done = muster.run_python(1, "print('x' * 200_000)")
    lines = done.stdout.splitlines()
    assert lines[0] == "[0] " + "x" * 65536
    assert all(line.startswith("[0]+ x") for line in lines[1:])
    assert sum(line.count("x") for line in lines) == 200_000


def test_progress_bar_is_thinned_but_its_end_is_shown(muster):
    program = "for i in range(5000): print(f'\\r{i} of 4999', end='')\nprint()\nprint('after\\r\\nlast')"
    lines = muster.run_python(1, program).stdout.splitlines()
    assert lines[-3:] == ["[0] 4999 of 4999", "[0] after", "[0] last"]
    assert len(lines) < 1000


def test_colour_only_on_a_terminal(muster, terminal):
    assert "\x1b" not in muster.run_python(1, "print(1)").stdout
    muster.env["TERM"] = "xterm"
    process = muster.start_on(terminal, "run", "-n", "2", "--", "echo", "hi")
    assert "\x1b[33m[1]\x1b[0m hi" in terminal.read_all()
    assert process.wait(PATIENCE_S) == 0


def test_stdin_goes_to_rank_0_only(muster):
    done = muster.run_python(2, "import sys; print(repr(sys.stdin.read()))", input="data\n")
    assert sorted(done.stdout.splitlines()) == ["[0] 'data\\n'", "[1] ''"]


def test_words_after_the_dashes_are_the_programs_own(muster):
    done = muster("run", "-n", "1", "--", "echo", "-n", "--", "--help")
    assert done.stdout == "[0] -- --help\n"
    assert muster("run", "-n", "1", "echo", "--help").stdout.startswith("[0] ")


def test_a_command_that_can_not_be_executed_is_told_with_the_command_that_was_meant(muster):
    (muster.folder / "a_train.py").write_text("print(1)\n")
    (muster.folder / "tool").write_text("#!/bin/sh\n")
    (muster.folder / "tool").chmod(0o755)
    (muster.folder / "project").mkdir()

    def told(*command):
        done = muster("run", "-n", "2", "--", *command, cwd=muster.folder)
        assert done.returncode == 1
        return done.stderr

    assert "hint: name the interpreter, too: python a_train.py --epochs 3\n" in told("a_train.py", "--epochs", "3")
    assert "hint: name the interpreter, too: python ./a_train.py\n" in told("./a_train.py")
    assert "there is no such file here; its interpreter goes first: python b_train.py\n" in told("b_train.py")
    assert "it is in this folder, which is not on PATH: ./tool x\n" in told("tool", "x")
    assert "can't execute 'project': it is a folder\n  hint: name the program in it" in told("project")
    line = told("python -c 'print(1)'")
    assert "can't execute 'python -c 'print(1)'': it is one word, and no file has that name" in line
    assert "leave out the quotes round the whole command" in line
    assert "is it installed, and on PATH?" in told("no-such-program")


def test_a_stopped_rank_that_all_wait_for_is_told(muster):
    program = (
        "import os, signal; os.environ['MUSTER_RANK'] == '1' and os.kill(os.getpid(), signal.SIGSTOP); print('on')"
    )
    process = muster.start("run", "-n", "3", "--", sys.executable, "-c", program)
    told = process.stderr.readline()
    found = re.fullmatch(r"muster run: rank 1 \(pid (\d+)\) is stopped, and all other ranks have ended\n", told)
    assert found, told
    assert f"kill -CONT {found[1]}" in process.stderr.readline()
    os.kill(int(found[1]), signal.SIGCONT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    assert "[1] on" in output


def test_first_failure_ends_all_and_is_named(muster):
    program = """
import os, signal, sys
if os.environ["MUSTER_RANK"] == "2":
    print("ValueError: boom", file=sys.stderr)
    sys.exit(7)
signal.pause()
"""
    done = muster.run_python(4, program)
    assert done.returncode == 7
    assert re.search(r"rank 2 \(pid \d+\) exited with code 7; 3 other ranks ended with it", done.stderr)
    assert "last words: ValueError: boom" in done.stderr
    assert "hint: " in done.stderr


def test_with_keep_going_the_others_go_on(muster):
    program = """
import os, signal, sys
if os.environ["MUSTER_RANK"] == "1":
    sys.exit(7)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print("pid", os.getpid(), flush=True)
signal.sigwait({signal.SIGUSR1})
print("went on")
"""
    process = muster.start("run", "-n", "2", "--keep-going", "--", sys.executable, "-c", program)
    told = process.stderr.readline()
    assert re.fullmatch(r"muster run: rank 1 \(pid \d+\) exited with code 7; 1 other rank keeps going\n", told)
    (pid,) = read_pids(process, 1)
    os.kill(pid, signal.SIGUSR1)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert output == "[0] went on\n"
    assert process.returncode == 7
    assert "exited with code 7; 1 other rank went on, of which none failed" in errors


def test_with_keep_going_the_status_is_that_of_the_first_failure(muster):
    gate = str(muster.folder / "gate")
    os.mkfifo(gate)  # rank 1 fails after the test has read about rank 0
    program = """
import os, sys
if os.environ["MUSTER_RANK"] == "0":
    sys.exit(3)
os.close(os.open(sys.argv[1], os.O_RDONLY))
sys.exit(9)
"""
    process = muster.start("run", "-n", "2", "--keep-going", "--", sys.executable, "-c", program, gate)
    assert "rank 0" in process.stderr.readline()
    os.close(os.open(gate, os.O_WRONLY))
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3
    assert "1 other rank went on, of which 1 failed" in errors


def test_with_keep_going_ctrl_c_ends_all(muster):
    # Rank 1 ends by the signal. Rank 0 ignores it, and gets SIGTERM because rank 1 ended.
    program = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
if os.environ["MUSTER_RANK"] == "0":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
else:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
print("pid", os.getpid(), flush=True)
signal.sigwait({signal.SIGTERM})
"""
    process = muster.start("run", "-n", "2", "--keep-going", "--", sys.executable, "-c", program)
    pids = read_pids(process, 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGINT
    for pid in pids:
        wait_gone(pid)


def test_the_others_learn_how_a_rank_ended_although_its_parent_has_waited_for_it(muster):
    program = """
import os, muster
group = muster.group(timeout=60)
group.barrier().result()
if group.rank == 1:
    os.kill(os.getpid(), 9)
try:
    group.barrier().result()
except muster.PeerLost as error:
    print(error.message)
"""
    done = muster.run_python(2, program, "--keep-going", env=muster.env_of_python)
    assert "the group has lost ranks: rank 1" in done.stdout or "a rank that is lost: rank 1" in done.stdout, done
    # Older kernels forget it as soon as the parent knows.
    assert LINUX < (6, 15) or "was killed by signal 9 (Killed)" in done.stdout, done


def test_with_keep_going_a_group_that_shrinks_goes_on(muster):
    program = """
import os, sys
import numpy as np
import muster
group = muster.group(on_loss="shrink")
group.allreduce(np.ones(3)).result()
if group.rank == 1:
    os._exit(5)
while True:
    if group.allreduce(np.ones(3)).result().tolist() == [2.0, 2.0, 2.0]:
        break
print("two are left")
"""
    done = muster.run_python(3, program, "--keep-going", env=muster.env_of_python)
    assert done.returncode == 5, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] two are left", "[2] two are left"]


def test_failure_by_signal_is_named(muster):
    program = """
import os, signal
if os.environ["MUSTER_RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""
    done = muster.run_python(2, program)
    assert done.returncode == 128 + signal.SIGKILL
    assert re.search(r"rank 1 \(pid \d+\) was ended by SIGKILL", done.stderr)


def test_a_rank_that_ends_well_ends_nobody(muster):
    program = """
import os, sys
if os.environ["MUSTER_RANK"] == "0":
    sys.exit(0)
sys.stdout.write("".join(str(i) + "\\n" for i in range(20000)))
"""
    done = muster.run_python(2, program)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[1] 19999"


def test_a_rank_that_ignores_sigterm_is_killed_after_the_grace(muster):
    program = """
import os, signal, sys
if os.environ["MUSTER_RANK"] == "0":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("pid", os.getpid(), flush=True)
    open(sys.argv[1], "w").close()
    while True:
        signal.pause()
os.close(os.open(sys.argv[1], os.O_RDONLY))
sys.exit(3)
"""
    gate = str(muster.folder / "gate")
    os.mkfifo(gate)  # rank 1 fails only after rank 0 ignores the signal
    done = muster("run", "-n", "2", "--grace", "0.2", "--", sys.executable, "-c", program, gate)
    assert done.returncode == 3
    wait_gone(int(re.search(r"pid (\d+)", done.stdout).group(1)))


def test_grandchildren_end_with_the_first_failure(muster):
    program = WAIT_WITH_CHILD.replace(
        "signal.pause()",
        """
os.close(1)
if os.environ["MUSTER_RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()""",
    )
    process = muster.start("run", "-n", "2", "--", sys.executable, "-c", program)
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", process.stdout.read())]
    assert process.wait(PATIENCE_S) == 128 + signal.SIGKILL
    assert pids
    for pid in pids:
        wait_gone(pid)


def test_what_a_rank_leaves_behind_ends_with_it(muster):
    done = muster("run", "-n", "1", "--", "sh", "-c", "sleep 1000 & echo pid $!")
    assert done.returncode == 0, done.stderr
    wait_gone(int(re.search(r"pid (\d+)", done.stdout).group(1)))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_to_every_rank(muster, number):
    program = """
import signal, sys
received = []
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: received.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
print("pid 0", flush=True)
print("got", signal.sigwait({signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGHUP}).name)
"""
    process = muster.start("run", "-n", "3", "--", sys.executable, "-c", program)
    read_pids(process, 3)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert sorted(output.splitlines()) == [f"[{rank}] got {number.name}" for rank in range(3)]


def test_ctrl_c_ends_plain_programs_and_says_so(muster):
    process = muster.start("run", "-n", "2", "--", "sh", "-c", "echo pid $$; exec sleep 1000")
    read_pids(process, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGINT
    assert "passed it on" in errors


def test_ctrl_c_twice_ends_those_that_ignore_it(muster):
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('pid 0', flush=True); signal.pause()"
    process = muster.start("run", "-n", "2", "--", sys.executable, "-c", program)
    read_pids(process, 2)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM


def test_nothing_is_left_when_muster_run_itself_is_killed(muster):
    process = muster.start("run", "-n", "2", "--", sys.executable, "-c", WAIT_WITH_CHILD)
    pids = read_pids(process, 4)
    process.kill()
    process.wait(PATIENCE_S)
    for pid in pids:
        wait_gone(pid)


def test_a_closed_stdout_ends_the_ranks(muster):
    process = muster.start("run", "-n", "2", "--", "yes")
    assert process.stdout.readline() in ("[0] y\n", "[1] y\n")
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 128 + signal.SIGPIPE


def test_stop_and_go_on(muster):
    program = "import signal; print('pid 0', flush=True); signal.sigwait({signal.SIGUSR1})"
    program = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}); " + program.partition("; ")[2]
    process = muster.start("run", "-n", "2", "--", sys.executable, "-c", program)
    read_pids(process, 2)
    process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("program", "expected"), [("/nowhere/at/all", "No such file"), ("/etc/passwd", "Permission denied")]
)
def test_a_program_that_can_not_be_executed(muster, program, expected):
    done = muster("run", "-n", "2", "--", program)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize(
    "words", [("-n", "0", "--", "true"), ("-n", "two", "--", "true"), ("-n", "2"), ("-n", "2", "--")]
)
def test_misuse(muster, words):
    done = muster("run", *words)
    assert done.returncode == 2
    assert "muster run --help" in done.stderr


def test_without_a_daemon_one_is_started_that_ranks_find(muster):
    program = """
import os, socket
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(os.environ["MUSTER_SOCKET"])
"""
    done = muster.run_python(2, program)
    assert done.returncode == 0, done.stderr
