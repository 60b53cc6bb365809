"""`muster doctor` finds what the machine has and what it lacks."""

import json
import os
import resource
import subprocess


def checks(done):
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_this_machine_is_well_enough(muster):
    done = muster("doctor", "--json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["failed"] == 0
    assert found["warnings"] == sum(check["health"] == "warn" for check in found["checks"])
    for check in found["checks"]:
        assert set(check) == {"name", "health", "found", "mend"}
        assert check["health"] in ("ok", "warn", "fail")
        assert (check["mend"] == "") == (check["health"] == "ok")
    for name in (
        "kernel",
        "memfd sealing",
        "pidfd",
        "open files",
        "memory mappings",
        "memory",
        "cores",
        "socket folder",
        "daemon",
        "version",
    ):
        assert name in checks(done)


def test_status_calls_the_vector_instructions_as_doctor_does(muster):
    found = checks(muster("doctor", "--json"))["vector instructions"]["found"]
    assert muster("start", "--memory", "64MiB").returncode == 0
    simd = json.loads(muster("status", "--json").stdout)["simd"]
    assert simd == found or not found.startswith("AVX")


def test_text_has_a_line_per_check_and_says_how_to_mend(muster):
    listed = checks(muster("doctor", "--json"))
    text = muster("doctor").stdout
    for name, check in listed.items():
        assert f"{check['health']:4}  {name}" in text
        assert check["mend"] in text
    assert "Muster works here" in text


def test_daemon_missing_and_running(muster):
    missing = checks(muster("doctor", "--json"))["daemon"]
    assert missing["health"] == "warn"
    assert "muster start" in missing["mend"]
    muster("start", "--memory", "64MiB")
    running = checks(muster("doctor", "--json"))
    assert running["daemon"]["health"] == "ok"
    assert "64 MiB" in running["daemon"]["found"]
    assert running["version"]["health"] == "ok"


def test_too_few_open_files_fail(muster):
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))  # noqa: E731
    done = muster("doctor", "--json", preexec_fn=limit)
    assert done.returncode == 1
    assert checks(done)["open files"]["health"] == "fail"
    assert "ulimit -n" in checks(done)["open files"]["mend"]


def test_a_socket_path_that_is_too_long_fails(muster):
    done = muster("doctor", "--json", "--socket", "/tmp/" + "x" * 200)
    assert done.returncode == 1
    assert checks(done)["socket path"]["health"] == "fail"


def test_a_folder_that_anybody_can_write_to_is_warned_of(muster):
    folder = muster.folder / "open"
    folder.mkdir()
    folder.chmod(0o777)
    found = checks(muster("doctor", "--json", "--socket", str(folder / "s")))["socket folder"]
    assert found["health"] == "warn"
    assert "chmod" in found["mend"]


def test_one_core_is_warned_of(muster):
    done = subprocess.run(
        ["taskset", "-c", str(min(os.sched_getaffinity(0))), muster.path, "doctor", "--json"],
        env=muster.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert checks(done)["cores"]["health"] == "warn"
