"""start, stop, status, ls, groups against a real daemon."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from cli_harness import PATIENCE_S, wait_gone

MIB = 1 << 20

# Keeps a benchmark's ranks in place: a group of two, one of which never comes.
WAIT_IN_GROUP = ("bench", "allreduce", "-n", "1", "-b", "1M", "-e", "1M", "-w", "0", "-i", "1000000")


def status(muster):
    done = muster("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_start_status_stop(muster):
    started = muster("start", "--memory", "64MiB")
    assert started.returncode == 0, started.stderr
    assert muster.socket in started.stdout
    assert "muster status" in started.stdout
    told = status(muster)
    assert told["socket"] == muster.socket
    # Programs that read numbers as doubles would round it.
    assert isinstance(told["incarnation"], str)
    assert int(told["incarnation"]) > 0
    assert told["memory_bytes"] == 64 * MIB
    assert told["clients"] == []
    assert told["objects"] == 0
    stopped = muster("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not pathlib.Path(muster.socket).exists()
    wait_gone(told["pid"])
    assert muster("stop").returncode == 3


def test_stop_tells_programs_what_it_ended(muster):
    started = json.loads(muster("start", "--memory", "64MiB", "--json").stdout)
    told = json.loads(muster("stop", "--json").stdout)
    assert told == {"stopped": True, **{name: started[name] for name in ("socket", "version", "pid")}}


def test_start_says_which_folder_it_made(muster):
    folder = muster.folder / "a" / "b"
    muster.socket = muster.env["MUSTER_SOCKET"] = str(folder / "c.sock")
    started = muster("start", "--memory", "64MiB")
    assert started.returncode == 0, started.stderr
    assert f"\n  made the folder {folder}\n" in started.stdout
    again = muster("start")
    assert "made the folder" not in again.stdout
    muster("stop")
    assert json.loads(muster("start", "--memory", "64MiB", "--json").stdout)["made_folder"] == ""


def test_start_again_leaves_the_daemon_as_it_is(muster):
    first = json.loads(muster("start", "--memory", "64MiB", "--json").stdout)
    assert first["started"] is True
    again = muster("start", "--memory", "64MiB", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == {**first, "started": False}
    other = muster("start", "--memory", "128MiB")
    assert other.returncode == 1
    assert "64" in other.stderr
    assert "128" in other.stderr
    assert "muster stop" in other.stderr


def test_a_started_daemon_outlives_its_starter_and_does_not_end_when_idle(muster):
    muster("start", "--memory", "64MiB")
    assert status(muster)["pid"] == status(muster)["pid"]


def test_many_starts_at_once_make_one_daemon(muster):
    processes = [muster.start("start", "--memory", "64MiB", "--json") for _ in range(10)]
    told = [json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in processes]
    assert len({one["pid"] for one in told}) == 1
    assert {process.returncode for process in processes} == {0}


def test_start_after_the_daemon_was_killed(muster):
    first = json.loads(muster("start", "--memory", "64MiB", "--json").stdout)["pid"]
    os.kill(first, signal.SIGKILL)
    wait_gone(first)
    assert muster("status").returncode == 3
    again = json.loads(muster("start", "--memory", "64MiB", "--json").stdout)
    assert again["started"] is True
    assert again["pid"] != first


def test_start_without_a_daemon_to_start(muster):
    muster.env["MUSTER_DAEMON"] = "/nowhere/musterd"
    done = muster("start")
    assert done.returncode == 3
    assert "musterd was not found: MUSTER_DAEMON names /nowhere/musterd, which is not there\n" in done.stderr
    assert "hint: set MUSTER_DAEMON to the path of musterd, or to nothing" in done.stderr


@pytest.mark.parametrize(("kind", "why"), [("file", "which this user can't execute"), ("folder", "which is a folder")])
def test_a_named_daemon_that_is_no_program(muster, kind, why):
    named = muster.folder / "musterd"
    if kind == "file":
        named.write_text("not executable")
    else:
        named.mkdir()
    muster.env["MUSTER_DAEMON"] = str(named)
    done = muster("start")
    assert done.returncode == 3
    assert f"MUSTER_DAEMON names {named}, {why}\n" in done.stderr


def test_a_program_that_is_no_musterd_is_named(muster):
    muster.env["MUSTER_DAEMON"] = shutil.which("true")
    done = muster("start")
    assert done.returncode == 3
    assert f"the daemon did not start: {shutil.which('true')} ended without saying why\n" in done.stderr
    assert "hint: see that it is a musterd" in done.stderr


def test_where_the_daemon_was_looked_for_is_said(muster):
    alone = muster.folder / "bin" / "muster"
    alone.parent.mkdir()
    shutil.copy(muster.path, alone)
    muster.path = str(alone)
    muster.env |= {"PATH": "/nowhere", "VIRTUAL_ENV": "/nowhere/venv"}
    done = muster("start")
    assert done.returncode == 3
    places = f"{alone.parent}/musterd, /nowhere/venv/bin/musterd"
    assert f"musterd was not found: looked at {places} and on PATH\n" in done.stderr


def test_a_daemon_that_can_not_start_says_why(muster):
    muster.env["MUSTER_CONFIG"] = "/nowhere/config.toml"
    done = muster("start")
    assert done.returncode == 3
    assert "/nowhere/config.toml" in done.stderr
    assert ".log" in done.stderr


@pytest.mark.parametrize("content", [None, 'socket = ["x"]', "memory = true"], ids=["folder", "list", "bool"])
def test_a_config_file_that_says_nothing_usable_is_refused(muster, content):
    config = muster.folder / "config"
    if content is None:
        config.mkdir()
    else:
        config.write_text(content)
    muster.env["MUSTER_CONFIG"] = str(config)
    done = muster("start")
    assert done.returncode == 3
    assert f"config file {config}: " in done.stderr


@pytest.mark.parametrize("budget", ["0", "1", "4KiB", "4095KiB"])
@pytest.mark.parametrize("words", [("start",), ("run", "-n", "1"), ("bench", "allreduce")])
def test_a_budget_that_can_hold_nothing_is_refused(muster, words, budget):
    done = muster(*words, "--memory", budget, *(["--", "true"] if words[0] == "run" else []))
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"muster {words[0]}: --memory: '{budget}' is too little memory; give 4MiB at least\n  hint: see `muster"
    )


def options_in_help(program):
    """Returns a dict from each flag to its placeholder and meaning."""
    text = subprocess.run([program, *HELP_OF[program.name]], capture_output=True, text=True, check=True).stdout
    return {found[1]: found[2].split() for found in re.finditer(r"^  (--[a-z-]+) (.*)$", text, re.MULTILINE)}


HELP_OF = {"musterd": ["--help"], "muster": ["start", "--help"]}


def test_start_takes_the_options_of_the_daemon(muster):
    own = options_in_help(pathlib.Path(muster.path))
    daemons = options_in_help(pathlib.Path(muster.path).with_name("musterd"))
    assert daemons.keys() - own.keys() == {"--version", "--ready-fd", "--nccl-wheel"}
    assert own.keys() - daemons.keys() == {"--json"}
    alike = daemons.keys() & own.keys() - {"--socket", "--config"}
    assert {flag: own[flag] for flag in alike} == {flag: daemons[flag] for flag in alike}


def test_start_passes_its_options_on(muster):
    muster.env["MUSTER_LANES"] = "3"
    words = "--memory 64MiB --lanes 1 --socket-mode 0640 --log-format json --log-level debug --idle-exit 3600"
    words += " --user-memory 32MiB --client-memory 16MiB --objects-max 100 --clients-max 10 --in-flight-max 10"
    words += " --maps-max 400"
    done = muster("start", *words.split())
    assert done.returncode == 0, done.stderr
    told = status(muster)
    assert told["lanes"] == 1
    assert told["maps_max"] == 400
    assert pathlib.Path(muster.socket).stat().st_mode & 0o777 == 0o640
    assert pathlib.Path(told["log"]).read_text().startswith("{")
    done = muster("bench", "allreduce", "-n", "1", "-b", "20M", "-e", "20M", "-T", "1")
    assert "one process may hold 16 MiB" in done.stderr
    again = muster("start")
    assert "runs already" in again.stdout
    assert "It ends 1 h 00 min after its last client leaves" in again.stdout


def test_start_names_the_users_nccl_by_its_whole_path(muster):
    """The daemon has another working directory. A bare name is for the system's loader."""
    for given, passed in (("lib/libnccl.so.2", f"{muster.folder}/lib/libnccl.so.2"), ("libnccl.so.2", "libnccl.so.2")):
        assert muster("start", "--memory", "64MiB", "--nccl-so", given, cwd=muster.folder).returncode == 0
        words = pathlib.Path(f"/proc/{status(muster)['pid']}/cmdline").read_text().split("\0")
        assert words[words.index("--nccl-so") + 1] == passed
        assert muster("stop").returncode == 0


def test_start_takes_a_config_file_and_options_go_before_it(muster):
    (muster.folder / "muster.toml").write_text('lanes = 1\nmemory = "64MiB"\n')
    done = muster("start", "--config", "muster.toml", "--memory", "32MiB", cwd=muster.folder)
    assert done.returncode == 0, done.stderr
    assert status(muster)["lanes"] == 1
    assert status(muster)["memory_bytes"] == 32 * MIB


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lanes", "0"), "'0' is not a whole number from 1 to 1024"),
        (("--clients-max", "1.5"), "'1.5' is not a whole number from 1 to 100000"),
        (("--idle-exit", "-1"), "'-1' is not a number from 0 to 31622400"),
        (("--pickle-lease", "long"), "'long' is not a number from 0 to 31622400"),
        (("--user-memory", "much"), "'much' is not a size"),
        (("--socket-mode", "999"), "'999' is not a file mode; use octal digits, for instance 0660"),
        (("--log-format", "xml"), "'xml' is none of: text, json"),
        (("--log-level", "loud"), "'loud' is none of: debug, info, warning, error"),
        (("--config", "/nowhere/muster.toml"), "/nowhere/muster.toml"),
    ],
)
def test_a_value_that_the_daemon_does_not_take_is_misuse_and_both_say_it_alike(muster, words, said):
    done = muster("start", *words)
    assert done.returncode == 2
    assert f"muster start: {words[0]}: " in done.stderr
    assert said in done.stderr
    program = pathlib.Path(muster.path).with_name("musterd")
    own = subprocess.run([program, *words], capture_output=True, text=True, timeout=PATIENCE_S)
    assert own.returncode == 2
    assert said.partition(";")[0] in own.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("foo",),
            "musterd: Invalid: 'foo' is not an option, and musterd takes nothing else (hint: see `musterd --help`)",
        ),
        (("--memroy", "1GiB"), "there is no option --memroy; did you mean --memory? (hint: see `musterd --help`)"),
        (("--memory",), "--memory needs a value (hint: see `musterd --help`)"),
        (("--lanes", "1", "--lanes", "2"), "--lanes takes one value, and can be given once (hint: "),
    ],
)
def test_musterd_says_what_is_wrong_with_its_words(muster, words, said):
    program = pathlib.Path(muster.path).with_name("musterd")
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_size_without_quotes_in_a_config_file_is_told(muster):
    (muster.folder / "muster.toml").write_text("memory = 1GiB\n")
    program = pathlib.Path(muster.path).with_name("musterd")
    words = [program, "--config", muster.folder / "muster.toml"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert 'texts and sizes in quotes: memory = "4GiB"' in done.stderr


def test_a_variable_that_is_mistyped_is_told(muster):
    muster.env |= {"MUSTER_MEMROY": "64MiB", "MUSTER_OF_MY_OWN": "x"}
    started = muster("start", "--memory", "64MiB")
    assert started.returncode == 0
    assert (
        started.stderr == "muster start: nobody reads the variable MUSTER_MEMROY\n  hint: did you mean MUSTER_MEMORY?\n"
    )
    log = pathlib.Path(muster.socket).with_suffix(".log").read_text()
    assert log.count("nobody reads the variable MUSTER_MEMROY; did you mean MUSTER_MEMORY?") == 1
    assert "MUSTER_OF_MY_OWN" not in log


def test_a_daemon_that_runs_may_have_other_settings_and_that_is_said(muster):
    assert muster("start", "--memory", "64MiB", "--log-level", "debug").stderr == ""
    again = muster("start", "--memory", "64MiB", "--log-level", "debug", "--lanes", "1")
    assert again.returncode == 0
    assert "may have been started without --lanes, --log-level" in again.stderr
    assert muster("start", "--idle-exit", "0").returncode == 0
    other = muster("start", "--idle-exit", "60")
    assert other.returncode == 1
    assert "runs with no idle exit, not an idle exit after 1 min" in other.stderr


def test_the_least_budget_holds_something(muster):
    assert muster("start", "--memory", "4MiB").returncode == 0
    done = muster("bench", "allreduce", "-n", "4", "-b", "1K", "-e", "1K", "-i", "3")
    assert done.returncode == 0, done.stderr


def test_a_budget_that_the_machine_does_not_have_is_said(muster):
    """The daemon may start: it takes no memory before there are arrays."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gib = machine // 2**30 + 2
    started = muster("start", "--memory", f"{gib}GiB")
    assert started.returncode == 0
    assert f"the store may take {gib}" in started.stderr
    assert "killed" in started.stderr
    doctor = muster("doctor")
    assert f"the store may take {gib}" in doctor.stdout
    assert muster("stop").returncode == 0
    assert muster("start", "--memory", "64MiB").stderr == ""
    said = muster("doctor").stdout
    assert "4 ranks with" in said
    assert " 0 B each" not in said


def test_socket_by_flag(muster):
    other = str(muster.folder / "other")
    assert muster("start", "--memory", "64MiB", "--socket", other).returncode == 0
    assert muster("status").returncode == 3
    assert muster("status", "--socket", other).returncode == 0
    assert muster("stop", "--socket", other).returncode == 0


def test_a_relative_socket_is_meant_from_where_the_command_runs(muster):
    for words in (("start", "--memory", "64MiB"), ("status",), ("stop",)):
        done = muster(*words, "--socket", "here.sock", cwd=muster.folder)
        assert done.returncode == 0, done.stderr
        if words[0] == "start":
            assert (muster.folder / "here.sock").is_socket()
    muster.env["MUSTER_SOCKET"] = "there.sock"
    assert muster("start", "--memory", "64MiB", cwd=muster.folder).returncode == 0
    assert (muster.folder / "there.sock").is_socket()
    assert muster("stop", cwd=muster.folder).returncode == 0


def test_sizes_are_read_alike_by_command_and_daemon(muster):
    assert muster("start", "--memory", "0.017G").returncode == 0
    again = muster("start", "--memory", "0.017G")
    assert again.returncode == 0, again.stderr


def test_a_daemon_with_another_pickle_lease_is_not_what_was_asked_for(muster):
    assert muster("start", "--memory", "64MiB", "--pickle-lease", "2.5").returncode == 0
    assert muster("start", "--pickle-lease", "2.5").returncode == 0
    other = muster("start", "--pickle-lease", "60")
    assert other.returncode == 1
    assert "2.5 s" in other.stderr
    assert "1 min" in other.stderr
    assert "muster stop" in other.stderr


def test_a_daemon_ends_with_3_where_another_one_serves(muster):
    assert muster("start", "--memory", "64MiB").returncode == 0
    program = pathlib.Path(muster.path).with_name("musterd")
    done = subprocess.run([program, "--socket", muster.socket], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 3
    assert f"another musterd serves {muster.socket}" in done.stderr


def test_a_file_in_the_place_of_the_socket_is_not_to_be_removed(muster):
    file = pathlib.Path(muster.socket)
    file.write_text("somebody's work")
    done = muster("start", "--memory", "64MiB")
    assert done.returncode != 0
    assert f"{file} exists and is not a socket" in done.stderr
    assert "name a path where no file is: --socket, or MUSTER_SOCKET" in done.stderr
    assert "remove" not in done.stderr
    assert file.read_text() == "somebody's work"
    file.unlink()


def test_stop_ends_a_run_that_uses_the_daemon(muster):
    process, _ = busy(muster)  # waits until it is connected: it would start another daemon before
    assert muster("stop").returncode == 0
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3, errors
    assert "muster stop" in errors
    assert "hint: " in errors


def busy(muster):
    """Starts a benchmark in the background, and returns once its group is there."""
    muster("start", "--memory", "256MiB")
    process = muster.start(*WAIT_IN_GROUP)
    while True:
        groups = json.loads(muster("groups", "--json").stdout)["groups"]
        if groups and groups[0]["seats"][0]["contributed"] > 0:
            return process, groups
        assert process.poll() is None, process.stderr.read()


def test_groups_status_and_ls_show_who_works(muster):
    process, groups = busy(muster)
    try:
        (group,) = groups
        assert group["name"].startswith("bench-")
        assert group["world_size"] == 1
        seat = group["seats"][0]
        assert seat["rank"] == 0
        assert seat["client"].startswith("muster bench 0")
        assert seat["pid"] in children_of(process.pid)
        (client,) = status(muster)["clients"]
        assert client["pid"] == seat["pid"]
        assert client["memory_bytes"] > 0
        objects = objects_once_there(muster)
        assert objects[0]["bytes"] == MIB
        assert objects[0]["dtype"] == "float32"
        assert objects[0]["shape"] == [MIB // 4]
        text = muster("groups").stdout
        assert group["name"] in text
        assert "CONTRIBUTED" in text
        assert "muster bench 0" in muster("status").stdout
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def children_of(pid):
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def objects_once_there(muster):
    """Asks until a query sees objects: they come and go with each round."""
    while True:
        objects = json.loads(muster("ls", "--json").stdout)["objects"]
        if objects:
            return objects


def test_tables_of_an_empty_store(muster):
    muster("start", "--memory", "64MiB")
    assert muster("ls").stdout == "no objects in the store\n"
    assert muster("groups").stdout == "no groups\n"
    assert "no clients" in muster("status").stdout
    assert json.loads(muster("ls", "--json").stdout) == {"total": 0, "objects": []}
    assert json.loads(muster("groups", "--json").stdout) == {"total": 0, "groups": []}


def test_a_stopped_daemon_does_not_hang_the_command(muster):
    muster("start", "--memory", "64MiB")
    pid = status(muster)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = muster("stop", "--timeout", "0.2")
        assert done.returncode == 4
        assert "hint: " in done.stderr
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("command", ["status", "ls", "groups"])
def test_a_wait_for_a_stopped_daemon_is_told_while_it_lasts(muster, command):
    muster("start", "--memory", "64MiB")
    pid = status(muster)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        process = muster.start(command)
        told = process.stderr.readline()
        assert process.poll() is None
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"the daemon on {muster.socket} (pid {pid}) does not answer; waiting for it up to 19 s more" in told
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == ""


def test_run_leaves_nothing_behind_in_the_store(muster):
    muster("start", "--memory", "64MiB")
    done = muster("run", "-n", "2", "--", sys.executable, "-c", "pass")
    assert done.returncode == 0, done.stderr
    muster.status_once(lambda told: told["clients"] == [])  # the daemon notices their ends a moment later
